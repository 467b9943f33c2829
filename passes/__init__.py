"""Graph rewrites: one change per file. Import as `fxprune.passes`.

In: a graph module, and what to place in it, computed elsewhere: no numerics here but products of
weights. Out: a `PassResult`, held to the contract by one runner; `docs/writing-passes.md` teaches
writing a pass.
May import: errors, graph, rules, label, plans.
"""

if __name__ != "fxprune.passes":
    raise ImportError(
        f"This package is fxprune.passes; it was imported as {__name__!r}. Write `import "
        "fxprune.passes`."
    )

from fxprune.passes.contract import FunctionalPass, InPlacePass, Pass
from fxprune.passes.factorize import Factorize
from fxprune.passes.facts import Facts
from fxprune.passes.fold_norms import FoldNorms
from fxprune.passes.fold_scales import FoldScales
from fxprune.passes.fuse_norms import FuseNorms
from fxprune.passes.insert_maps import InsertMaps
from fxprune.passes.keep_means import KeepMeans
from fxprune.passes.lift import LiftModules
from fxprune.passes.reduce_channels import ReduceChannels
from fxprune.passes.rotate import Rotate

__all__ = [
    "Facts",
    "Factorize",
    "FoldNorms",
    "FoldScales",
    "FuseNorms",
    "FunctionalPass",
    "InPlacePass",
    "InsertMaps",
    "KeepMeans",
    "LiftModules",
    "Pass",
    "ReduceChannels",
    "Rotate",
]
