"""Facts about an FX graph of ATen calls, each read in one place.

In: a node or a graph module. Out: what it is: an operator's name, a convolution's settings, the
module a node came from, the tensors behind a name. Changes nothing but what its names say.
May import: errors.
"""
