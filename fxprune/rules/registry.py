"""Rules say what an operator does to channel labels; families of operators share one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch.fx import Node

from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value
from fxprune.rules.recorder import Recorder


@dataclass(frozen=True)
class Call:
    """One operator call under label propagation.

    Attributes:
        node: the call in the captured graph.
        target: the operator.
        args: positional arguments; tensors are `Value`s, symbolic sizes are the example's integers.
        kwargs: keyword arguments, likewise.
        out: what the call returns, without labels: a `Value`, or a tuple of them.
        record: where unions, pins and consumers are written.
    """

    node: Node
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    record: Recorder

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)

    def values(self) -> list[Value]:
        """Every tensor among the arguments, lists included."""
        tensors: list[Value] = []

        def visit(item: Any) -> None:
            if isinstance(item, Value):
                tensors.append(item)
            elif isinstance(item, (list, tuple)):
                for part in item:
                    visit(part)

        visit(self.args)
        visit(tuple(self.kwargs.values()))
        return tensors


Rule = Callable[[Call], Any]
ENTRY_POINTS = "fxprune.rules"
_RULES: dict[str, Rule] = {}


def register_rule(*operators: str) -> Callable[[Rule], Rule]:
    """Teach label propagation an operator: `@register_rule("mylib.my_op")`.

    The rule takes a `Call` and returns its output `Value` (or tuple of them) with labels. It ties
    what must go together with `call.record.unite` and pins what may not go with `call.record.pin`.
    Rules of `fxprune.rules` such as `fxprune.rules.pointwise` can be registered under another
    operator's name as they are.

    Args:
        operators: names as `namespace.operator`, without the overload.
    """

    def add(rule: Rule) -> Rule:
        for name in operators:
            _RULES[name] = rule
        return rule

    return add


@cache
def load_entry_points() -> None:
    """Import what installed packages name in the entry point group `fxprune.rules`; their
    decorators register rules.
    """
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def rule_for(target: Any) -> Rule | None:
    """The rule written for an operator, or None."""
    load_entry_points()
    return _RULES.get(operator_name(target))
