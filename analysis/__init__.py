"""Turns the runs of an experiment folder into tables and figures; reads files only."""
