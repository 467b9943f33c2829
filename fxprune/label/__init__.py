"""Station 2: channel labels run through the graph; what lives or dies together is a channel group.

In: the captured graph. Out: an `Analysis`: channel groups, what is pinned and why, FLOPs as
functions of the channels; and, for a keep mask, what survives of every shape and argument.
May import: errors, graph, rules, capture.
"""
