"""The demo's images: Fashion-MNIST (Zalando SE, MIT licence, see NOTICE beside this file)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
MEAN, STD = 0.2860, 0.3530


def normalize(images: Tensor) -> Tensor:
    """Gray images (N, 28, 28) uint8 to (N, 1, 28, 28) float32 with zero mean and unit deviation."""
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


@dataclass(frozen=True)
class DemoData:
    """Unlabeled calibration images, and evaluation images with labels; none seen in training."""

    calibration: Tensor
    images: Tensor
    labels: Tensor


def load() -> DemoData:
    """Read the packaged images."""
    with np.load(FOLDER / "fashion_mnist.npz", allow_pickle=False) as file:
        return DemoData(
            normalize(torch.from_numpy(file["calibration"])),
            normalize(torch.from_numpy(file["images"])),
            torch.from_numpy(file["labels"].astype(np.int64)),
        )
