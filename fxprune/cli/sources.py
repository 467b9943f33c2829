"""Calibration data by name, for the command line."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.cli.models import called
from fxprune.cli.presets import Preset
from fxprune.cli.stored import INPUTS, KEYS, stored
from fxprune.errors import SourceError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
DEEP = ("I", "F")
"""How the modes of images of 16 or 32 bits begin, which Pillow clips to white as it converts."""
SPLITS = ("val", "valid", "validation", "train", "training", "eval", "test", "testing")
"""Names of folders that hold parts of a data set which must not be mixed; the best to calibrate on
first.
"""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ImageOptions:
    """How images become inputs.

    Attributes:
        size: side of the square crop; the shorter side is resized to it. Not applied to arrays.
        gray: one channel instead of three.
        mean, std: per channel, of values in [0, 1]; empty for ImageNet's (or 0.5 for gray).
        preset: what the model's library says, which goes before; not applied to arrays.
    """

    size: int = 224
    gray: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    preset: Preset | None = None

    def normalize(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to normalized float32.

        Raises:
            SourceError: the number of means or deviations is not the number of channels.
        """
        channels = images.shape[1]
        mean = self.mean or (IMAGENET[0] if channels == 3 else (0.5,) * channels)
        std = self.std or (IMAGENET[1] if channels == 3 else (0.5,) * channels)
        if len(mean) != channels or len(std) != channels:
            raise SourceError(
                f"The images have {channels} channels; --mean has {len(mean)} values and --std "
                f"{len(std)}. Give one per channel."
            )
        return (images.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(
            -1, 1, 1
        )


def data(spec: str, options: ImageOptions, batch: int = 50, limit: int | None = None) -> Any:
    """A re-iterable of calibration batches.

    Args:
        spec: a folder of images (searched with its subfolders), an .npz file, or
            `package.module:loader_factory`.
        options: how images become inputs.
        batch: examples per batch, of folders and arrays.
        limit: most examples, of folders and arrays.

    Raises:
        SourceError: says what is missing.
    """
    path = Path(spec)
    if path.is_dir():
        return ImageFolder(path, options, batch, limit)
    if path.suffix == ".npz":
        return arrays(path, options, batch, limit)
    if ":" in spec:
        return called(spec)
    raise SourceError(
        f"There is no data at {spec!r}: name a folder of images, an .npz file, or "
        "package.module:loader_factory."
    )


def is_folder(spec: str) -> bool:
    """Whether data is a folder of images."""
    return bool(spec) and Path(spec).is_dir()


def arrays(path: Path, options: ImageOptions, batch: int, limit: int | None) -> list[Tensor]:
    """Batches from an .npz: its array `calibration`, `images`, `inputs` or `x`, or its only one.

    uint8 arrays are images, (N, H, W) or (N, H, W, C), and are normalized; others are taken as
    they are.
    """
    held = stored(path, KEYS, INPUTS)
    try:
        array = torch.from_numpy(held[:limit])
    except (TypeError, ValueError, IndexError) as error:
        raise SourceError(f"{path} holds no inputs of numbers: {error}.") from error
    if array.dtype is torch.uint8:
        if array.dim() not in (3, 4):
            raise SourceError(
                f"{path}: images must be (N, H, W) or (N, H, W, C), not {tuple(array.shape)}."
            )
        array = options.normalize(array.unsqueeze(1) if array.dim() == 3 else array.movedim(3, 1))
    elif array.dtype is torch.float64:
        array = array.float()
    return list(array.split(batch)) if len(array) else []


class ImageFolder:
    """Batches of images from a folder, decoded anew on every pass.

    Args:
        folder: searched with its subfolders, in order of names.
        options, batch, limit: as for `data`. A limit takes images evenly spread over the folder.

    Attributes:
        files: of the images, in order.

    Raises:
        SourceError: Pillow is not installed, or there is no image.
    """

    def __init__(self, folder: Path, options: ImageOptions, batch: int, limit: int | None):
        try:
            from PIL import Image
        except ImportError as error:
            raise SourceError(
                'Reading a folder of images needs Pillow: pip install "fxprune[vision]" or pip '
                "install pillow."
            ) from error
        self._image = Image
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
        if not files:
            raise SourceError(f"{folder} holds no image ({', '.join(sorted(IMAGES))}).")
        _require_one_split(folder)
        if limit is not None and limit < len(files):
            files = [files[i * len(files) // limit] for i in range(limit)]
        self.folder, self.files, self._options, self._batch = folder, files, options, batch

    def __len__(self) -> int:
        return math.ceil(len(self.files) / self._batch)

    def __iter__(self) -> Iterator[Tensor]:
        for at in range(0, len(self.files), self._batch):
            files = self.files[at : at + self._batch]
            preset = self._options.preset
            if preset is None:
                yield self._options.normalize(torch.stack([self._read(p).float() for p in files]))
            else:
                yield torch.stack([preset.transform(self._open(p, "RGB")) for p in files])

    def _open(self, path: Path, mode: str) -> Any:
        """A PIL image in a mode; a deep one as floats from 0 to 255."""
        try:
            with self._image.open(path) as file:
                if not file.mode.startswith(DEEP):
                    return file.convert(mode)
                values = np.asarray(file, dtype=np.float32)
                image = self._image.fromarray(_to_bytes(values, file.mode, path))
        except OSError as error:
            raise SourceError(f"{path} cannot be decoded: {error}.") from error
        return image if self._options.preset is None else image.convert("L").convert(mode)

    def _read(self, path: Path) -> Tensor:
        """Resized and cropped, (C, H, W), from 0 to 255."""
        size, gray = self._options.size, self._options.gray
        image = self._open(path, "L" if gray else "RGB")
        scale = size / min(image.size)
        width, height = (max(size, round(s * scale)) for s in image.size)
        image = image.resize((width, height), self._image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size))))
        if pixels.dim() == 2:
            return pixels.expand(1 if gray else 3, -1, -1)
        return pixels.movedim(2, 0)


def _require_one_split(folder: Path) -> None:
    """Refuse a folder of several parts of a data set.

    Raises:
        SourceError: names them.
    """
    parts = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower() in SPLITS)
    if len(parts) > 1:
        names = " and ".join(f"{p.name}/" for p in parts)
        best = min(parts, key=lambda part: SPLITS.index(part.name.lower()))
        raise SourceError(
            f"{folder} holds {names}, which are not to be mixed: examples that a model is tested "
            f"on are not for calibration. Name one of them, such as --data {best}; best are "
            "examples that the model was not trained on either."
        )


class Cast:
    """A loader whose floating tensors are cast.

    Args:
        loader: of batches.
        dtype: that they get.
    """

    def __init__(self, loader: Any, dtype: torch.dtype):
        self._loader, self._dtype = loader, dtype

    def __iter__(self) -> Iterator[Any]:
        items = [self._loader] if isinstance(self._loader, Tensor) else self._loader
        for item in items:
            yield pytree.tree_map_only(Tensor, self._cast, item)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _to_bytes(values: np.ndarray, mode: str, path: Path) -> np.ndarray:
    """The values of a deep image as float32 from 0 to 255, whatever range they are from.

    Raises:
        SourceError: no range of the file's kind holds them.
    """
    low, high = float(values.min()), float(values.max())
    ranges = (1.0, 255.0, 65535.0) if mode.startswith("F") else (65535.0,)
    top = next((top for top in ranges if high <= top), None)
    if not low >= 0 or top is None:
        raise SourceError(
            f"{path} holds values from {low:g} to {high:g}. Images of floats are read from 0 to 1, "
            "255 or 65535, and of 16 bits from 0 to 65535: scale them, or give an .npz of inputs."
        )
    return values * np.float32(255 / top)
