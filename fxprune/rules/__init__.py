"""What each family of operators does to channel labels."""

from fxprune.rules import contraction, movement, products, reduction  # noqa: F401  (registers the rules)
from fxprune.rules.labels import Value
from fxprune.rules.pointwise import pointwise
from fxprune.rules.registry import Call, register_rule, rule_for

__all__ = ["Call", "Value", "pointwise", "register_rule", "rule_for"]
