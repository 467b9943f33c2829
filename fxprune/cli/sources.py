"""Models, weights and data by name, for the command line."""

import importlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fxprune.cli.onnx_file import read_onnx
from fxprune.cli.stored import INPUTS, KEYS, stored
from fxprune.errors import SourceError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
DEEP = ("I", "F")
"""How the modes of images of 16 or 32 bits begin, which Pillow clips to white as it converts."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ImageOptions:
    """How images become inputs.

    Attributes:
        size: side of the square crop; the shorter side is resized to it. Not applied to arrays.
        gray: one channel instead of three.
        mean, std: per channel, of values in [0, 1]; empty for ImageNet's (or 0.5 for gray).
    """

    size: int = 224
    gray: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

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


def named(spec: str) -> Any:
    """The object that `package.module:name` names; modules of the current folder are found too.

    Raises:
        SourceError: no such module or name, or importing it fails.
    """
    module, colon, path = spec.partition(":")
    if not colon or not module or not path:
        raise SourceError(
            f"{spec!r} is not of the form package.module:factory, such as "
            "torchvision.models:resnet18, nor a file that ends in .onnx."
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        target: Any = importlib.import_module(module)
    except Exception as error:
        raise SourceError(
            f"Importing {module} for {spec!r} fails: {type(error).__name__}: {error}."
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise SourceError(f"{spec!r}: {module} has no {path}.")
        target = getattr(target, part)
    return target


def _called(spec: str) -> Any:
    factory = named(spec)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    try:
        return factory()
    except Exception as error:
        raise SourceError(
            f"{spec}() fails: {type(error).__name__}: {error}. A factory takes no argument."
        ) from error


def model(spec: str, weights: Path | None = None) -> nn.Module:
    """The model that a factory makes, with weights from a file, or that an ONNX file holds.

    Args:
        spec: `package.module:factory`, or the path of a file that ends in `.onnx`.
        weights: .safetensors, or a state dict written by torch.save, read with weights_only=True.

    Raises:
        SourceError: says which part fails.
    """
    if Path(spec).suffix.lower() == ".onnx":
        if weights is not None:
            raise SourceError(f"{spec} brings its own weights. Leave out --weights {weights}.")
        return read_onnx(Path(spec))
    made = _called(spec)
    if not isinstance(made, nn.Module):
        raise SourceError(f"{spec} gives a {type(made).__name__}, not a torch.nn.Module.")
    if weights is not None:
        try:
            made.load_state_dict(state_dict(weights))
        except RuntimeError as error:
            problems = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            raise SourceError(
                f"{weights} does not fit {type(made).__name__}: {problems}"
            ) from error
    return made.eval()


def state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from .safetensors or a weights-only state dict; no code in the file is run.

    Raises:
        SourceError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise SourceError(f"There is no weights file {path}.")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged archive raises whatever its readers stumble over
        first = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(
            f"{path} is neither safetensors nor a weights-only state dict: "
            f"{type(error).__name__}: {first}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SourceError(f"{path} holds no state dict (tensors by name).")
    return state


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
        return _called(spec)
    raise SourceError(
        f"There is no data at {spec!r}: name a folder of images, an .npz file, or "
        "package.module:loader_factory."
    )


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
        if limit is not None and limit < len(files):
            files = [files[i * len(files) // limit] for i in range(limit)]
        self.folder, self.files, self._options, self._batch = folder, files, options, batch

    def __len__(self) -> int:
        return math.ceil(len(self.files) / self._batch)

    def __iter__(self) -> Iterator[Tensor]:
        for at in range(0, len(self.files), self._batch):
            yield self._options.normalize(
                torch.stack([self._read(p).float() for p in self.files[at : at + self._batch]])
            )

    def _read(self, path: Path) -> Tensor:
        size = self._options.size
        try:
            with self._image.open(path) as file:
                deep = file.mode.startswith(DEEP)
                values = np.asarray(file, dtype=np.float32) if deep else None
                image = (
                    file.convert("L" if self._options.gray else "RGB")
                    if values is None
                    else self._image.fromarray(_to_bytes(values, file.mode, path))
                )
        except OSError as error:
            raise SourceError(f"{path} cannot be decoded: {error}.") from error
        scale = size / min(image.size)
        width, height = (max(size, round(s * scale)) for s in image.size)
        image = image.resize((width, height), self._image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size))))
        if pixels.dim() == 2:
            return pixels.expand(3 if deep and not self._options.gray else 1, -1, -1)
        return pixels.movedim(2, 0)


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
