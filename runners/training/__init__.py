"""Training of the cells of one run, from the environment loop to its last record."""
