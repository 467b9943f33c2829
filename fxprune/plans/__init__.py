"""What is asked for and what was decided, as data.

In: the caller's budget, method and choices. Out: `Budget`, `Method`, `Plan`, `Factoring`: frozen
values, JSON where they travel.
May import: errors and what labels say of parameters (label).
"""
