"""Declare torchvision's missing operators, so that it can be imported beside a torch without its extension."""

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []


def declare() -> None:
    """Define the operators that `import torchvision` registers fakes for; does nothing where they exist."""
    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        if hasattr(torch.ops.torchvision, name):
            continue
        # The fragment must outlive the import, or the definition goes with it.
        _libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
        _libraries[-1].define(schema)


declare()
import torchvision  # noqa: E402

__all__ = ["torchvision"]
