"""Statistics over evaluations, seeds and tasks."""
