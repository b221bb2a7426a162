"""Task pack `structured`: documents in JSON, YAML, TOML, XML and CSV, with exact gold values (README.md)."""
