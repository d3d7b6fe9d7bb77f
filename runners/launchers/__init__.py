"""Ways to run the cells of a sweep."""
