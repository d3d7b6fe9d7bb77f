"""Provide building blocks of methods: layers, losses, optimisers, memories, random streams."""
