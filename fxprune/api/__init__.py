"""The public verbs, one file each: analyze, compress, plan, apply, sweep, factorize, recover.

Each builds one `Options` from its keywords and hands it to the pipeline; `recover` one `Wish`.
"""

from fxprune.api.analyzing import analyze
from fxprune.api.applying import apply
from fxprune.api.compressing import compress
from fxprune.api.factorizing import factorize
from fxprune.api.planning import plan
from fxprune.api.recovering import recover
from fxprune.api.sweeping import sweep

__all__ = ["analyze", "apply", "compress", "factorize", "plan", "recover", "sweep"]
