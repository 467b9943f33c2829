"""Station 7: do two models decide alike, how often, and how sure is that.

In: two models, held-out examples, and what `decision=` says. Out: an `Agreement` with its lower
bound, by the rules of a `Judge` that is settled before the work.
May import: errors, linalg, capture, calibrate.
"""
