"""What an experiment consists of: cells, protocols, seeds. Imports no torch."""
