"""The game we record and learn from: a third-person arena in ViZDoom, its players and its recorder."""
