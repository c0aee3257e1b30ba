"""Stories: trees of frames, their files and their routes."""
