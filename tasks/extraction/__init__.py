"""Task pack `extraction`: offenders, places and police departments of news articles as one JSON object (README.md)."""
