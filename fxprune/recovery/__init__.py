"""Recovery: the compressed model is trained, without labels, to what the original gives.

In: the original, what `compress` made of it, and its calibration examples. Out: a compressed module
of the same sizes that agrees at least as often, with a bound on examples that neither the fit nor
the training has seen.
May import: everything up to saving. accelerate, an extra, is imported when training begins.
"""
