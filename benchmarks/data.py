"""Fashion-MNIST from Debian's `dataset-fashion-mnist` or a folder with the same four files."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxprune.demo.data import normalise

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 5000
"""Images at the end of the training file that no network is trained on: the calibration pool."""


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 28, 28) float32, normalised, and labels (N,) int64."""

    images: Tensor
    labels: Tensor


def _read(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def raw(part: str, folder: Path = DEBIAN) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and labels (N,) uint8 of `train`, `calibration` or `test`.

    Raises:
        FileNotFoundError: the folder does not hold the data set; says how to get it.
    """
    prefix = "t10k" if part == "test" else "train"
    path = folder / f"{prefix}-images-idx3-ubyte.gz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `apt-get install dataset-fashion-mnist`, or name a folder that "
            "torchvision.datasets.FashionMNIST filled (its raw/ folder) with --data."
        )
    images, labels = _read(path), _read(folder / f"{prefix}-labels-idx1-ubyte.gz")
    if part == "test":
        return images, labels
    keep = slice(None, -HELD_OUT) if part == "train" else slice(-HELD_OUT, None)
    return images[keep], labels[keep]


def split(part: str, folder: Path = DEBIAN) -> Split:
    """`train` (55,000), `calibration` (5,000, never trained on) or `test` (10,000), normalised."""
    images, labels = raw(part, folder)
    return Split(normalise(torch.from_numpy(images.copy())), torch.from_numpy(labels.astype(np.int64)))
