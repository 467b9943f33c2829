"""Station 5: how much is taken from which group, under a budget.

In: profiles, costs, limits. Out: a `Plan` and its keep mask. Whole candidates are fitted and tried
on the validation split, so this room stands above fit.
May import: everything up to fit.
"""
