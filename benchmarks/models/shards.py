"""A random language model of any size in a Hugging Face folder, written shard by shard."""

import importlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

VOCABULARY = 32_000
WIDTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 4096)
"""Of the residual stream."""
SHAPE = 128
"""Of the width, that a layer stands for at most: models of this kind have about 100."""
SHARD = 5e8
"""Bytes of a shard, at most."""


def llama() -> Any:
    """transformers' modules of Llama; it imports torchvision where there is one."""
    with suppress(ImportError):
        importlib.import_module("benchmarks.models.torchvision_ops")
    return importlib.import_module("transformers")


def llama_config(parameters: float, vocabulary: int = VOCABULARY) -> Any:
    """The configuration of a Llama of about so many parameters, as deep as wide models of its kind
    are: grouped queries, an MLP of 2.75 times the width, embeddings that are not tied.
    """
    fits = [w for w in WIDTHS if _layers(parameters, w, vocabulary) >= w / SHAPE]
    width = max(fits, default=WIDTHS[0])
    layers = max(1, _layers(parameters, width, vocabulary))
    heads = width // 64
    return llama().LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _layers(parameters: float, width: int, vocabulary: int) -> int:
    return round((parameters - 2 * vocabulary * width) / _layer(width))


def _layer(width: int) -> int:
    """Parameters of a layer: queries and outputs, keys and values, and the MLP."""
    heads = width // 64
    return 2 * width**2 + 2 * width * 64 * max(1, heads // 4) + 3 * width * (11 * width // 4)


def write_llama(folder: Path, config: Any, seed: int = 0) -> int:
    """Write random weights as `LlamaForCausalLM.from_pretrained` reads them; never more than a
    shard is in memory.

    Returns:
        parameters.
    """
    with torch.device("meta"):
        model = llama().LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(seed)
    config.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(model)):
        file = f"model-{number:05d}.safetensors"
        save_file({n: _random(n, t, draw) for n, t in shard}, folder / file, {"format": "pt"})
        places |= dict.fromkeys((n for n, _ in shard), file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(parameter.numel() for parameter in model.parameters())


def _shards(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    shard, size = list[tuple[str, Tensor]](), 0
    for name, tensor in model.state_dict().items():
        own = tensor.numel() * tensor.element_size()
        if shard and size + own > SHARD:
            yield shard
            shard, size = [], 0
        shard.append((name, tensor))
        size += own
    yield shard


def _random(name: str, tensor: Tensor, draw: torch.Generator) -> Tensor:
    """Norms of one, and weights that keep the variance of what they read.

    Inputs of a layer are made alike by directions that all columns share: independent columns could
    not be told by others, which no trained network's are.
    """
    if tensor.dim() == 1:
        return torch.ones(tensor.shape)
    rows, columns = tensor.shape
    scale = 1.0 if "embed" in name else columns**-0.5
    rank = max(1, rows // 8)
    value = torch.randn(rows, columns, generator=draw).mul_(0.5)
    shared = torch.randn(rows, rank, generator=draw).mul_(rank**-0.5)
    value.addmm_(shared, torch.randn(rank, columns, generator=draw), alpha=0.85)
    return value.mul_(scale)
