"""Small pictures of examples whose inputs are images, for reports."""

import struct
import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.capture.batch import Batch

SIDE = 64
"""Most pixels along a side."""
LEAST = 8
"""Fewer rows or columns are no image."""
COLORS = (1, 3)
"""Numbers of channels that an image has."""
PNG_COLORS = {1: 0, 3: 2}
"""The code of each in a PNG file."""


@dataclass(frozen=True)
class Picture:
    """A small image.

    Attributes:
        height, width, channels: 1 channel for gray, 3 for colors.
        pixels: (height, width, channels) uint8.
    """

    height: int
    width: int
    channels: int
    pixels: bytes

    def png(self) -> bytes:
        """As a PNG file (ISO/IEC 15948), which every browser shows; Pillow is optional here."""
        row = self.width * self.channels
        lines = b"".join(
            b"\0" + self.pixels[at : at + row] for at in range(0, len(self.pixels), row)
        )
        color = PNG_COLORS[self.channels]
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, color, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
        chunks = (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def picture_of(batch: Batch, row: int) -> Picture | None:
    """One example's first image, with its values spread from black to white: how they were
    normalized is not known. None where no input is one.

    Args:
        batch: images are floating, (N, 1 or 3, height, width) or (N, height, width, 1 or 3).
        row: of the example.
    """
    for tensor in batch.tensors():
        if tensor.dim() != 4 or len(tensor) != batch.size or not tensor.is_floating_point():
            continue
        image = tensor[row].detach().float().cpu()
        if image.shape[0] not in COLORS and image.shape[2] in COLORS:
            image = image.movedim(2, 0)
        if image.shape[0] in COLORS and min(image.shape[1:]) >= LEAST:
            return _shrink(image)
    return None


def _shrink(image: Tensor) -> Picture:
    channels, *size = image.shape
    scale = min(1.0, SIDE / max(size))
    height, width = (max(1, round(scale * side)) for side in size)
    image = F.adaptive_avg_pool2d(image, (height, width))
    low, high = image.min(), image.max()
    spread = (image - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    pixels = (255 * spread).round().to(torch.uint8).movedim(0, 2).contiguous()
    return Picture(height, width, channels, pixels.cpu().numpy().tobytes())
