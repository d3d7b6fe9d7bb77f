"""Versions of methods that read images; a file has the name of the method it belongs to."""
