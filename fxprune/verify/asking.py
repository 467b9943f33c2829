"""What the caller is asked where shape and values leave open what a model decides."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fxprune.verify.infer import Inferred

NO_ROWS = "has no row"
"""In the reason why an output of another length than the batch is not judged."""


def ask(doubtful: Mapping[str, Inferred], named: Mapping[str, Tensor]) -> str:
    """What the caller has to say, and the choices."""
    shapes = ", ".join(
        f"{name} {('N', *named[name].shape[1:])}".replace("'", "") for name in doubtful
    )
    first = next(iter(doubtful))
    if len(named) == 1:
        answer = "decision= one of " + doubtful[first].choices
    else:
        answer = (
            "decision={"
            + ", ".join(f'"{n}": ...' for n in doubtful)
            + "} with "
            + "; ".join(
                f"{name}: one of {found.choices}, or None" for name, found in doubtful.items()
            )
        )
    return (
        f"Shape and values of the model's output leave open what it decides: {shapes}. Say when "
        f"two outputs are the same decision: {answer} (or a callable)."
    )


def ask_rows(names: Sequence[str]) -> str:
    """What the caller has to say of outputs that have no row for each example."""
    if not names:
        return ""
    return (
        f"The output {names[0]} has no row for each example: leave it out by "
        f'decision={{"{names[0]}": None}}, or pass a callable that judges all outputs.'
    )
