"""Station 7: do two models decide alike, how often, and how sure is that.

In: two models and held-out examples. Out: an `Agreement` with its lower bound.
May import: errors, linalg, capture, calibrate.
"""
