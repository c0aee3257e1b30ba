"""Games to record: the arena in ViZDoom with its bots, and any Gymnasium environment."""
