"""Task pack `orders_skeleton` (README.md)."""
