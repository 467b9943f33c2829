"""The first whole number that is enough."""

from collections.abc import Callable


def first_enough(enough: Callable[[int], bool]) -> int:
    """The smallest number from 1 on for which something holds, by doubling and then halving.

    Args:
        enough: holds for every number from some number on; it is called about twice the binary
            logarithm of that often.
    """
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
