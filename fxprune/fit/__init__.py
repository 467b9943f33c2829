"""Station 6: the graph is reduced for a keep mask and what remains is fitted, layer after layer.

In: a session, a keep mask, factorings. Out: the fitted graph of ATen calls.
May import: everything up to session.
"""
