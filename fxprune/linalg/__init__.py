"""Numerics on arrays: nothing here knows of graphs or modules."""
