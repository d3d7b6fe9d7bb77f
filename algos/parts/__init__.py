"""Building blocks of methods: networks, losses, optimisers, memories, random streams."""
