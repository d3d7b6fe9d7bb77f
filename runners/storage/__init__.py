"""What a run leaves on disk: its directory, checkpoints, claims and records."""
