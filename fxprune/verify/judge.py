"""What of a model's output is judged and by which rules, settled before any long work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fxprune.capture.returned import is_state
from fxprune.errors import UnsupportedError
from fxprune.verify.asking import NO_ROWS, ask, ask_rows
from fxprune.verify.decisions import Custom, Rule, check_result, next_token
from fxprune.verify.infer import Inferred, infer
from fxprune.verify.named_rules import RULES, parse_rule
from fxprune.verify.outputs import ONLY, floating, name_leaves

Choice = Rule | str | Callable[[Any, Any], Any] | None
Decision = Choice | Mapping[str | int, Choice]
"""What `decision=` takes: a rule of `fxprune.decisions` or its name, or a callable (reference
output, output) -> (N,) bool; or these by the name or index of an output, None for one that is not
judged.
"""

Cut = Callable[[str, Tensor], list[Tensor] | None]
"""Takes the padding off an output by its name, (1, ...) example by example; None where it has none.
"""


@dataclass(frozen=True)
class Judged:
    """One output and its rule.

    Attributes:
        name: of the output; empty where a caller's function judges all of them at once.
        rule: how it is judged.
        counts: whether it is part of the joint decision; else its rate is only reported.
    """

    name: str
    rule: Rule
    counts: bool = True


@dataclass(frozen=True)
class Judge:
    """When two outputs count as the same decision: all that count must agree.

    Attributes:
        outputs: what is judged, and how.
        notes: what is left out, and what was chosen in doubt, for the report.
        question: what the caller has to say where shape and values leave doubt; else empty.
    """

    outputs: tuple[Judged, ...]
    notes: tuple[str, ...] = ()
    question: str = ""

    def __str__(self) -> str:
        """For the report's first line."""
        counted = [judged for judged in self.outputs if judged.counts]
        if len(counted) == 1 and counted[0].name in ("", ONLY):
            return str(counted[0].rule)
        names: dict[str, list[str]] = {}
        for judged in counted:
            names.setdefault(str(judged.rule), []).append(judged.name)
        return "; ".join(f"{', '.join(of)}: {rule}" for rule, of in names.items())

    @property
    def tokens(self) -> tuple[str, next_token] | None:
        """The output whose next tokens are the decisions, where that is all that counts."""
        counted = [judged for judged in self.outputs if judged.counts]
        if len(counted) != 1 or not isinstance(counted[0].rule, next_token):
            return None
        return counted[0].name, counted[0].rule

    def decide(
        self,
        reference: Any,
        output: Any,
        size: int,
        cut: Cut = lambda name, value: None,
    ) -> list[Tensor]:
        """(size,) bool for each of `outputs`, of one batch.

        Args:
            reference, output: of both models.
            size: examples in it.
            cut: takes the padding off an output.

        Raises:
            UnsupportedError: an output is missing or of another size, or a caller's function does
                not give (size,) bool.
        """
        tensors = [floating(value) for value in (reference, output)]
        same = []
        for judged in self.outputs:
            pair = (reference, output)
            if judged.name:
                pair = tuple(_pick(named, judged.name, size) for named in tensors)  # type: ignore[assignment]
            pieces = [cut(judged.name, value) for value in pair] if judged.name else [None]
            if any(piece is None for piece in pieces):
                same.append(check_result(judged.rule(*pair), size, judged.rule))
                continue
            ones = (judged.rule(*both) for both in zip(*pieces, strict=True))
            same.append(torch.cat([check_result(one, 1, judged.rule) for one in ones]))
        return same


def check_decision(decision: Any) -> None:
    """Check that `decision=` is of a kind that is taken.

    Raises:
        UnsupportedError: it is not; says what is.
    """
    for choice in decision.values() if isinstance(decision, Mapping) else (decision,):
        _make_rule(choice)


def settle(
    decision: Decision,
    samples: Sequence[tuple[Any, int]],
    known: Mapping[str, next_token] = MappingProxyType({}),
) -> Judge:
    """Fix what is judged and by which rules.

    Args:
        decision: the caller's; None to infer it.
        samples: outputs of the original on a few batches, and their numbers of examples.
        known: rules of outputs that are known to score next tokens, by name.

    Raises:
        UnsupportedError: the decision does not suit the output, or there is nothing to judge.
    """
    output, size = samples[0]
    rule = None if isinstance(decision, Mapping) else _make_rule(decision)
    if isinstance(rule, Custom):
        rule.try_on(output, size)
        return Judge((Judged("", rule),))
    named, left_out = _judgeable(samples)
    chosen: dict[str, Rule | None] = dict.fromkeys(named, rule)
    if rule is None:
        mapping = decision if isinstance(decision, Mapping) else {}
        chosen = _choose(mapping, {**named, **left_out})
    own = tuple(
        Judged(name, _settle_one(_with_tokens(choice, known.get(name)), name, named[name]))
        for name, choice in chosen.items()
        if choice is not None
    )
    inferred = {
        name: Inferred(known[name]) if name in known else infer(tensor)
        for name, tensor in named.items()
        if name not in chosen
    }
    if not own and not inferred:
        raise UnsupportedError(
            "The model returns no floating tensor with a row per example to compare. Pass "
            "decision=callable(reference, output) -> (N,) bool."
        )
    unsaid = {n: reason for n, reason in left_out.items() if reason and n not in chosen}
    unsaid |= {n: "the caller's choice" for n, choice in chosen.items() if choice is None}
    notes = [f"the output {name} is not judged: {reason}" for name, reason in unsaid.items()]
    question = ask_rows([name for name, reason in unsaid.items() if NO_ROWS in reason])
    return _judge(own, inferred, named, notes, question)


def _judge(
    own: tuple[Judged, ...],
    inferred: Mapping[str, Inferred],
    named: Mapping[str, Tensor],
    notes: list[str],
    question: str,
) -> Judge:
    """Put the caller's rules and inferred ones together; ask where nothing is sure."""
    doubtful = {name: found for name, found in inferred.items() if found.doubts}
    judged = (*own, *(Judged(name, found.rule) for name, found in inferred.items()))
    if own or len(doubtful) < len(inferred):
        notes += [
            f"the output {name} is judged by {found.rule}; decision= takes {found.choices} for it, "
            "or None to leave it out"
            for name, found in doubtful.items()
        ]
        return Judge(judged, tuple(notes), question)
    others = (
        Judged(name, rule, counts=False)
        for name, found in doubtful.items()
        for rule in found.doubts
    )
    question = " ".join(part for part in (ask(doubtful, named), question) if part)
    return Judge((*judged, *others), tuple(notes), question)


def _with_tokens(rule: Rule, known: next_token | None) -> Rule:
    """The caller's rule, with the argument that holds the tokens where it says none."""
    if known is not None and isinstance(rule, next_token) and rule.ids is None:
        return replace(rule, ids=known.ids)
    return rule


def _settle_one(rule: Rule, name: str, tensor: Tensor) -> Rule:
    try:
        return rule.settle(tensor)
    except UnsupportedError as error:
        if name == ONLY:
            raise
        raise UnsupportedError(
            f"The output {name}: {error} Give each output its own rule: decision={{{name!r}: ...}}."
        ) from error


def _make_rule(choice: Any) -> Rule | None:
    if choice is None:
        return None
    if isinstance(choice, Rule):
        return choice
    if isinstance(choice, str):
        return parse_rule(choice)
    unmade: list[type[Rule]] = [kind for kind in RULES.values() if kind is choice]
    if unmade:
        return unmade[0]()
    if callable(choice):
        return Custom(choice)
    raise UnsupportedError(
        f"decision is a {type(choice).__name__}; pass one of {', '.join(RULES)}, a rule of "
        "fxprune.decisions, a callable (reference, output) -> (N,) bool, or a dict of these by the "
        "name of an output."
    )


def _judgeable(samples: Sequence[tuple[Any, int]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The outputs that can be judged, of all samples; and why others cannot, by name."""
    rows: dict[str, list[Tensor]] = {}
    left_out: dict[str, str] = {}
    for output, size in samples:
        for name, leaf in name_leaves(output).items():
            reason = _unfit(leaf, size)
            if reason is None:
                rows.setdefault(name, []).append(leaf.detach())
            else:
                left_out[name] = reason
    named = {
        name: torch.cat([part for part in parts if part.shape[1:] == parts[0].shape[1:]])
        for name, parts in rows.items()
        if name not in left_out
    }
    return named, left_out


def _unfit(leaf: Any, size: int) -> str | None:
    """Why an output cannot be judged; empty for what is no tensor, None where it can."""
    if is_state(leaf):
        return f"it is a {type(leaf).__name__}, state for later calls"
    if not isinstance(leaf, Tensor):
        return ""
    if not leaf.is_floating_point():
        return f"it holds {str(leaf.dtype).removeprefix('torch.')}"
    if not leaf.dim():
        return "it is one number for all examples"
    if len(leaf) != size or not leaf.numel():
        return f"its shape {tuple(leaf.shape)} {NO_ROWS} for each of {size} examples"
    return None


def _choose(decision: Mapping[str | int, Choice], names: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's rules by the names of outputs; a key stands for all that lies below it, too."""
    chosen: dict[str, Rule | None] = {}
    for key, choice in decision.items():
        below = [n for n in names if n == str(key) or n.startswith(f"{key}.")]
        if not below:
            raise UnsupportedError(
                f"decision names the output {key!r}; the model returns {', '.join(names)}."
            )
        rule = _make_rule(choice)
        fit = [n for n in below if rule is None or isinstance(names[n], Tensor)]
        if not fit:
            reason = names[below[0]] or "it is no tensor"
            raise UnsupportedError(f"decision: the output {below[0]} cannot be judged: {reason}.")
        chosen |= dict.fromkeys(fit, rule)
    return chosen


def _pick(named: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    if name not in named or len(named[name]) != size:
        raise UnsupportedError(
            f"The output {name} is missing or has no row for each of {size} examples on a later "
            "batch. Every batch must give outputs of one structure."
        )
    return named[name]
