"""Fashion-MNIST from Debian's `dataset-fashion-mnist` or a folder with the same four files."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fxprune.demo.data import normalize

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 5000
"""Images at the end of the training file that no network is trained on: the calibration pool."""


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 28, 28) float32, normalized, and labels (N,) int64."""

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
    """`train` (55,000), `calibration` (5,000, never trained on) or `test` (10,000), normalized."""
    images, labels = raw(part, folder)
    return Split(
        normalize(torch.from_numpy(images.copy())), torch.from_numpy(labels.astype(np.int64))
    )


def photos(folder: Path) -> Tensor:
    """All JPEG and PNG images of a folder in order of their names, (N, 3, H, W) float32, as (x -
    127) / 128.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    paths = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if folder.is_dir()
        else []
    )
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no JPEG or PNG image. --images names a folder with the folders "
            "calib/ and test/."
        )
    pixels = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128


def photographs(folder: Path) -> Tensor | None:
    """Of which photograph every image of a folder is a crop, (N,) int64, in the images' order, as
    `index.csv` beside the folder says; None where there is no such file.
    """
    index = folder.parent / "index.csv"
    if not index.is_file():
        return None
    with index.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["file"]).parent.name == folder.name]
    names = {photo: number for number, photo in enumerate(sorted({row["photo"] for row in rows}))}
    return torch.tensor([names[row["photo"]] for row in sorted(rows, key=lambda row: row["file"])])


def draw(pool: Tensor, count: int, seed: int) -> Tensor:
    """Calibration images."""
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]]
