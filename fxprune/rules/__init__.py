"""What each family of operators does to channel labels: one operator at a time.

In: a `Call` whose tensors carry labels. Out: its result's labels; unions, pins and consumers go to
the recorder. Packages teach further operators through the entry point group `fxprune.rules`.
May import: errors, graph.
"""

from fxprune.rules import (  # noqa: F401  (registers the rules)
    attention,
    contraction,
    einsum,
    indexing,
    joining,
    movement,
    normalization,
    products,
    recurrent,
    reduction,
    scattering,
    sources,
    transforms,
)
from fxprune.rules.labels import Value
from fxprune.rules.pointwise import pointwise
from fxprune.rules.registry import Call, register_rule, rule_for

__all__ = ["Call", "Value", "pointwise", "register_rule", "rule_for"]
