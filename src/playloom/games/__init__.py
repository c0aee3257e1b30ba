"""The arena: a third-person game in ViZDoom, its bots and its recorder."""
