"""The model holds the controller in the real game: it sees real frames, presses, and lives with what follows."""
