"""Graph rewrites: one change per file. Import as `fxprune.passes`."""

if __name__ != "fxprune.passes":
    raise ImportError(
        f"This package is fxprune.passes; it was imported as {__name__!r}. Write `import "
        "fxprune.passes`."
    )

from fxprune.passes.factorize import Factorize
from fxprune.passes.lift import LiftModules
from fxprune.passes.reduce_channels import ReduceChannels

__all__ = ["Factorize", "LiftModules", "ReduceChannels"]
