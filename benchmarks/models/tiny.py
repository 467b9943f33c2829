"""Tiny random configurations of transformers: how one is built, and what it is given."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.models import torchvision_ops  # noqa: F401  (before transformers, which imports torchvision too)

Build = Callable[[], tuple[nn.Module, Any]]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WORDS = {"vocab_size": 100, "max_position_embeddings": 64, **TINY}
IMAGE = {"image_size": 32, "patch_size": 8}


def tokens(**more: Any) -> dict[str, torch.Tensor]:
    """Two texts of twelve words, and their mask."""
    ids = torch.randint(0, 96, (2, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | more


def pixels(size: int = 32) -> dict[str, torch.Tensor]:
    """Two images."""
    return {"pixel_values": torch.randn(2, 3, size, size)}


def named(architecture: str, inputs: Callable[[], Any], **options: Any) -> Build:
    """An architecture by its name, with these options, and what gives its inputs."""

    def build() -> tuple[nn.Module, Any]:
        import transformers

        kind = architecture
        config_class = getattr(transformers, kind).config_class
        config = config_class(**options)
        return getattr(transformers, kind)(config), inputs()

    return build
