"""Layers that read more channels than the calibration examples give observations of."""

import math
from collections.abc import Mapping

import numpy as np

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.split import HoldsOut, examples_needed
from fxprune.errors import warn_caller


def warn_of_thin_inputs(
    moments: Mapping[Site, InputMoments], groups: np.ndarray, budget: HoldsOut
) -> str | None:
    """Warn where observations are fewer than channels; the warning, if there is one.

    Args:
        moments: of every consumer's input, of the examples that are fitted on.
        groups: (examples,) number of every calibration example's group.
        budget: what the held-out ones are to certify.
    """
    thin = [
        (site[0], len(gram), seen)
        for site, own in moments.items()
        for gram, seen in zip(own.grams, own.rows, strict=True)
        if seen < len(gram)
    ]
    if not thin:
        return None
    name, channels, seen = max(thin, key=lambda t: t[1] / t[2])
    fitted = max(own.examples for own in moments.values())
    wanted = math.ceil(channels * fitted / max(seen, 1))
    needed = examples_needed(wanted, groups, budget)
    read = "1 layer reads" if len(thin) == 1 else f"{len(thin)} layers read"
    text = (
        f"{read} more channels than the calibration data gives observations; the worst is "
        f"{name} with {channels} channels and {seen} observations. Give at least {needed} "
        "examples for a sharper fit."
    )
    warn_caller(text)
    return text.rstrip(".")
