"""Detectors: torchvision's, whose backbones are compressed in place, and the YOLO family from its
configurations.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models.entry import Entry, within
from benchmarks.models.torchvision_ops import torchvision

YOLO = (
    "yolov3-tiny",
    "yolov3",
    "yolov5n",
    "yolov5n-p6",
    "yolov6n",
    "yolov8n",
    "yolov8n-p2",
    "yolov8n-ghost",
    "yolov8n-cls",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-obb",
    "yolov9t",
    "yolov9c",
    "yolov10n",
    "yolo11n",
    "yolo11n-cls",
    "yolo11n-seg",
    "yolo11n-pose",
    "yolo11n-obb",
    "yolo12n",
    "yolo26n",
    "rtdetr-l",
)


class OnTensor(nn.Module):
    """A torchvision detector called with one (N, 3, H, W) tensor in place of a list of images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(list(images))


def detection(most: float) -> Iterator[Entry]:
    """Every torchvision detector; the backbone is what is compressed."""
    models = torchvision.models
    for name in models.list_models(module=models.detection):
        yield Entry(name, "detection", partial(_detector, name, most), target="model.backbone")


def _detector(name: str, most: float) -> tuple[nn.Module, Any]:
    keywords: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if not name.startswith("ssd"):
        keywords |= {"min_size": 128, "max_size": 128}
    model = within(torchvision.models.get_model(name, **keywords), most)
    return OnTensor(model), torch.rand(2, 3, 128, 128)


def yolo(most: float) -> Iterator[Entry]:
    """One small member of every YOLO generation and task, with random weights; needs `pip install
    ultralytics`.
    """
    for name in YOLO:
        yield Entry(name, "yolo", partial(_yolo, name, most))


def _yolo(name: str, most: float) -> tuple[nn.Module, Any]:
    from ultralytics.nn import tasks

    kinds = {
        "-cls": "Classification",
        "-seg": "Segmentation",
        "-pose": "Pose",
        "-obb": "OBB",
        "rtdetr": "RTDETRDetection",
    }
    kind = next((k for part, k in kinds.items() if part in name), "Detection")
    model = getattr(tasks, f"{kind}Model")(f"{name}.yaml", verbose=False)
    # The heads' exported form: decoded boxes and scores without the training outputs beside them.
    for module in model.modules():
        if hasattr(module, "export") and hasattr(module, "format"):
            module.export, module.format = True, "torchscript"
    size = 256 if "p6" in name or "rtdetr" in name else 128
    return within(model, most), torch.rand(2, 3, size, size)
