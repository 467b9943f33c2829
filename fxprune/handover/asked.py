"""What a call was asked for, in the words of its keywords."""

from dataclasses import fields

from fxprune.options import DEFAULTS, Options
from fxprune.plans.plan import Plan

LIMITS = ("flops", "params", "latency")
QUIET = (*("budget", "method", "decision", "progress", "memory", "example", "part", "checkpoint"),)
"""Options that are told elsewhere, or change nothing of the result."""


def tell_asked(options: Options, plan: Plan) -> dict[str, str]:
    """Budget, method, and every option that is not at its default, by keyword."""
    told = {}
    budget = options.budget
    if budget.agreement is not None:
        told["agreement"] = f"{budget.agreement:g}"
    limits = budget.limits if budget.agreement is not None else plan.settings
    told |= {name: f"{limits[name]:g}" for name in LIMITS if _is_number(limits.get(name))}
    told["method"] = options.method.name
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "groups":
            told |= {} if value is None else {"groups": "given"}
        elif option.name not in QUIET and value != getattr(DEFAULTS, option.name):
            told[option.name] = str(value)
    return told


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
