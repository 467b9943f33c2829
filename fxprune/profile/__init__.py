"""Station 4: what removing channels or lowering ranks would cost.

In: moments and the graph. Out: for every channel group a nested removal order and the predicted
error at every width; sensitivities of the model's output; FLOPs, parameters and seconds at widths.
`bases` finds coordinates in which fewer channels do, and `rotated` what is known in them.
A new way to choose channels is one entry in `selectors.SELECTORS`.
May import: everything up to passes.
"""
