"""The public verbs, one file each: analyze, compress, plan, apply, sweep, factorize.

Each builds one `Options` from its keywords and hands it to the pipeline.
"""

from fxprune.api.analyzing import analyze
from fxprune.api.applying import apply
from fxprune.api.compressing import compress
from fxprune.api.factorizing import factorize
from fxprune.api.planning import plan
from fxprune.api.sweeping import sweep

__all__ = ["analyze", "apply", "compress", "factorize", "plan", "sweep"]
