"""torchvision, also beside a torch that its compiled extension does not fit: where its import fails
for that, the missing operators are declared and it is imported again.
"""

import sys
from typing import Any

import torch
from torch import Tensor

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []


def declare() -> None:
    """Define the operators that `import torchvision` registers fakes for; does nothing where they
    exist.
    """
    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        if hasattr(torch.ops.torchvision, name):
            continue
        # The fragment must outlive the import, or the definition goes with it.
        _libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
        _libraries[-1].define(schema)
        if name == "nms":
            _libraries[-1].impl(name, suppressed, "CPU")


def suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes that overlap no better one by more than
    `threshold`.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
    """
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = (
            torch.maximum(boxes[best, :2], boxes[order, :2]),
            torch.minimum(boxes[best, 2:], boxes[order, 2:]),
        )
        shared = (high - low).clamp_min(0).prod(1)
        order = order[shared / (area[best] + area[order] - shared) <= threshold]
    return torch.stack(kept) if kept else order


try:
    import torchvision
except RuntimeError:
    declare()
    import torchvision

    # It refuses to call operators that its extension did not bring.
    torchvision.ops.boxes._assert_has_ops = lambda: None
    # What stands in for another one is compiled before its first call, which takes longer than it.
    aligning: Any = sys.modules["torchvision.ops.roi_align"]
    aligning._roi_align = aligning._roi_align.__wrapped__

__all__ = ["torchvision"]
