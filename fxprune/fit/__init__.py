"""Station 6: the graph is reduced for a keep mask and what remains is fitted, layer after layer.

In: a session, a keep mask, factorings. Out: the fitted graph of ATen calls.
May import: everything up to session.

`build` does it all; `fold` fits the consumers of removed channels once, `lockstep` refits every
layer in turn (`layer`, from the `row_sums` of what it reads, with what `execution` ran up to it),
`aims` repeats a fit where the activation behind is flat (`plateaus`) and `factor` makes two layers
of one.
"""
