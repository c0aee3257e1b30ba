"""The decoder-only transformer and its cache."""
