"""Station 1: a module and an example batch become a canonical graph.

In: the caller's model, which is never touched, and a batch. Out: a `Captured` copy: ATen calls over
named parameters, nothing in place, batch size free; lengths and image sizes too where the model
allows it.
May import: errors, graph, rules.
"""
