"""Provide what a method inherits: the interface, off-policy learning, DrQ-v2's actor and critic."""
