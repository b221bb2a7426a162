"""Task pack `tes`: control of a thermal energy storage, hour by hour, with the exact optimum to compare with (README.md)."""
