"""What the texts of options mean."""

from collections.abc import Sequence

import torch

from fxprune.capture.supported import DTYPES
from fxprune.errors import SourceError
from fxprune.options import RoundTo
from fxprune.verify import judge


def parse_numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers; none of an empty text.

    Raises:
        SourceError: a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SourceError(f"{text!r} is not a comma-separated list of numbers.") from error


def parse_augment(texts: Sequence[str] | None) -> list[str] | None:
    """What --augment says; `auto` where it is left out."""
    return None if texts and list(texts) == ["none"] else list(texts or ("auto",))


def parse_decision(texts: Sequence[str] | None) -> judge.Decision:
    """What --decision says: one rule, or rules by the names of outputs; None where it is left out.

    Raises:
        SourceError: one rule and rules by name are mixed.
    """
    named: dict[str | int, judge.Choice] = {}
    single = []
    for text in texts or ():
        name, equals, rule = text.partition("=")
        if equals and "(" not in name:
            named[name.strip()] = None if rule.strip() == "none" else rule
        else:
            single.append(text)
    if len(single) > 1 or (single and named):
        raise SourceError(
            "--decision names one rule for all outputs, or NAME=RULE for each of several."
        )
    return single[0] if single else named or None


def parse_multiple(text: str) -> RoundTo | None:
    """What --round-to says; None for the default.

    Raises:
        SourceError: it is neither a whole number nor auto.
    """
    if text in ("", "auto"):
        return "auto" if text else None
    try:
        return int(text)
    except ValueError as error:
        raise SourceError(f"--round-to {text!r} is neither a whole number nor auto.") from error


def parse_keep(texts: Sequence[str] | None) -> dict[str, float] | None:
    """What --keep says, NAME=SHARE each; None where it is left out.

    Raises:
        SourceError: a text is of another form.
    """
    kept: dict[str, float] = {}
    for text in texts or ():
        name, _, share = text.rpartition("=")
        try:
            kept[name.strip()] = float(share)
        except ValueError:
            name = ""
        if not name.strip():
            raise SourceError(f"--keep {text!r} is not NAME=SHARE, such as 'layer4.*=0.8'.")
    return kept or None


def parse_device(text: str | None) -> torch.device | None:
    """What --device says; None where it is left out.

    Raises:
        SourceError: there is no such device here.
    """
    if text is None:
        return None
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(f"--device {text!r} is no device that works here: {first}") from error
    return device


def parse_dtype(text: str | None) -> torch.dtype | None:
    """What --dtype says; None where it is left out.

    Raises:
        SourceError: it is none that can be compressed in.
    """
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    if text is not None and text not in known:
        raise SourceError(f"--dtype {text!r} is not one of {', '.join(sorted(known))}.")
    return None if text is None else known[text]


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape of one example, without the batch.

    Raises:
        SourceError: it is no list of sizes.
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
        torch.empty(2, *sizes, device="meta")
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise SourceError(
            f"--shape {text!r} is not a comma-separated list of sizes, such as 3,224,224."
        ) from error
    return sizes
