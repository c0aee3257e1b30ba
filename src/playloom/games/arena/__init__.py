"""The arena's engine, maps and Gymnasium environment."""
