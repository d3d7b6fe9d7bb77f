"""Reading of runs, logs and published numbers."""
