"""Fusion: an op's definition, traced over symbols and compiled to one loop over the data."""
