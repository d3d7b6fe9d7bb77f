"""What suites are made of: the registry of tasks, images, saved states, sketches."""
