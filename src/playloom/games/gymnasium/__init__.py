"""Any Gymnasium environment as a game to record."""
