"""Environments that the project builds itself, loaded when a task is made."""
