"""Shows on the documentation site what the defaults of keywords are.

In the source they are attributes of `fxprune.options.DEFAULTS`.
"""

from typing import Any

from griffe import Extension, Function

from fxprune.options import DEFAULTS


class Defaults(Extension):
    """Replaces `DEFAULTS.seed` by `0` in signatures."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Called for every function that griffe reads."""
        for parameter in func.parameters:
            first, *names = str(parameter.default).split(".")
            if first != "DEFAULTS":
                continue
            value: object = DEFAULTS
            for name in names:
                value = getattr(value, name)
            parameter.default = repr(value)
