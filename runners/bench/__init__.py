"""Measurements of speed: methods, pixels, checkpoints, the launcher."""
