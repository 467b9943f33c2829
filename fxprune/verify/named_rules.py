"""Rules of decisions by their names."""

import re
from dataclasses import fields

from fxprune.errors import UnsupportedError
from fxprune.verify.decisions import Rule, argmax, close, multilabel, next_token, sign

RULES: dict[str, type[Rule]] = {r.name: r for r in (argmax, next_token, sign, multilabel, close)}
"""What `decision=` takes by name."""


def parse_rule(text: str) -> Rule:
    """A rule by its name, with or without arguments: `argmax`, `argmax(dim=2, share=0.95)`.

    Raises:
        UnsupportedError: there is none of this name, or it does not take these arguments.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    kind = RULES.get(found[1]) if found else None
    if found is None or kind is None:
        raise UnsupportedError(f"decision={text!r} is not one of {', '.join(RULES)}.")
    known = [f.name for f in fields(kind) if f.name != "ids"]  # type: ignore[arg-type]
    arguments: dict[str, float] = {}
    for part in filter(str.strip, (found[2] or "").split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        try:
            if key not in known:
                raise ValueError
            arguments[key] = int(value) if key == "dim" else float(value)
        except ValueError as error:
            raise UnsupportedError(
                f"decision={text!r}: {kind.name} takes {', '.join(known)} as name=number."
            ) from error
    return kind(**arguments)
