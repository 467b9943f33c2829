"""What was found for one model of the coverage run, and where rows are kept."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FLOPS = 0.7
"""Share that the removal of channels aims at."""
ENOUGH = 0.9
"""Share below which FLOPs count as removed."""
TOLERANCE = 1e-4
"""Largest relative difference in single precision."""
EXACT = 1e-8
"""The same in double precision."""


@dataclass
class Row:
    """What was found for one model.

    Attributes:
        parameters: of what is compressed.
        captured: whether torch.export took it.
        groups: channel groups.
        prunable: share of the parameters with an axis from which channels can go.
        pinned: shares of the others, by reason.
        capture_s, analysis_s: processor seconds of the one thread.
        flops: what is left by the cost model.
        counted: what torch.utils.flop_counter counts in the compressed graph, as a share of the
            original's.
        error: largest difference to the masked original over the largest output, at batch sizes 1,
            2 and 3, in single precision.
        error64: the same in double precision, where single precision is not enough.
        effect: the same against the unmasked original: what the removal itself changes.
        shapes: of the first outputs by batch size.
        compiled: whether torch.compile(fullgraph=True) takes the result and returns the same; the
            error where not.
        notes: what capture lost.
        failure: where and why it stopped.
    """

    name: str
    source: str
    parameters: int = 0
    captured: bool = False
    groups: int = 0
    prunable: float = 0.0
    pinned: dict[str, float] = field(default_factory=dict)
    capture_s: float = 0.0
    analysis_s: float = 0.0
    flops: float = 1.0
    counted: float = 1.0
    error: float | None = None
    error64: float | None = None
    effect: float = 0.0
    shapes: dict[str, Any] = field(default_factory=dict)
    compiled: str = ""
    notes: tuple[str, ...] = ()
    failure: str = ""
    trace: str = ""

    @property
    def equal(self) -> bool:
        """Masked equivalence; double precision tells rounding that random weights blow up from a
        wrong channel.
        """
        if self.failure or self.error is None:
            return False
        return self.error <= TOLERANCE or self.error64 is not None and self.error64 <= EXACT

    @property
    def verdict(self) -> str:
        """`pass`; `pass (reason)` where the architecture leaves less than a tenth of the FLOPs to
        remove; `FAIL`.
        """
        if not self.equal:
            return "FAIL"
        if self.counted <= ENOUGH:
            return "pass"
        reason = next(iter(self.pinned), "")
        return f"pass ({reason})" if reason and self.flops > FLOPS else "FAIL"

    def as_json(self) -> dict[str, Any]:
        """The row with its verdict."""
        return asdict(self) | {"verdict": self.verdict}


def read(path: Path | None) -> dict[str, dict[str, Any]]:
    """Rows by `source/name`."""
    held = json.loads(path.read_text()) if path is not None and path.exists() else []
    return {f"{r['source']}/{r['name']}": r for r in held}
