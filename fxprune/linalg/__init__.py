"""Numerics on arrays: one numerical method per file.

In: NumPy arrays and tensors. Out: the same. Knows nothing of graphs, modules or models.
May import: nothing else of fxprune.
"""
