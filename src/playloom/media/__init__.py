"""Frames and actions in files (PNG, GIF, MP4, CSV, NPZ), and back. No model, no torch."""
