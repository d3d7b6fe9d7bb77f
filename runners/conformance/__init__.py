"""The rules that every agent must meet."""
