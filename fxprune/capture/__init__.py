"""Station 1: a module and an example batch become a canonical graph.

In: the caller's model, which is never touched, and a batch. Out: a `Captured` copy: ATen calls over
named parameters, nothing in place, batch size free.
May import: errors, graph, rules.
"""
