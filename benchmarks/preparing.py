"""Processor time of preparing residual streams for rotation, on models of real size.

    python -m benchmarks.preparing
    python -m benchmarks.preparing --only swin --share 0.1

Random weights and two examples; each model in a process of its own, as what calls gave on numbers
is remembered. Run it on the code before a change and after it: the last column is equal where all
that was found is.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.examination.isolation import isolated
from benchmarks.models.torchvision_ops import declare
from fxprune.capture.batch import example_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.profile.streams import prepare_streams


def _vision(name: str) -> tuple[nn.Module, Any]:
    import timm

    return timm.create_model(name), torch.randn(2, 3, 224, 224)


def _bert() -> tuple[nn.Module, Any]:
    declare()
    from transformers import BertConfig, BertForSequenceClassification

    tokens = {
        "input_ids": torch.randint(0, 30000, (2, 128)),
        "attention_mask": torch.ones(2, 128, dtype=torch.long),
    }
    return BertForSequenceClassification(BertConfig()), tokens


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "Swin-T": lambda: _vision("swin_tiny_patch4_window7_224"),
    "BERT-base": _bert,
    "ViT-B/16": lambda: _vision("vit_base_patch16_224"),
}


def measure(name: str, share: float) -> str:
    """A line of the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, example = MODELS[name]()
    captured = capture(model.eval(), example_batch(model, example))
    begin = time.process_time()
    analysis = analyze_graph(captured.graph, captured.example.size)
    labeled = time.process_time()
    found = prepare_streams(captured.graph, analysis, lambda name: False, share)
    prepared = time.process_time()
    tensors: dict[str, Tensor] = {} if found.graph is None else found.graph.state_dict()
    digest = hashlib.sha256(repr((found.maps, found.centered)).encode())
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].numpy().tobytes())
    return (
        f"| {name} | {labeled - begin:.1f} | {prepared - labeled:.1f} | {len(found.centered)} | "
        f"{len(found.maps)} | {digest.hexdigest()[:12]} |"
    )


def main(
    only: Annotated[str, typer.Option(help="A part of the names, in small letters.")] = "",
    share: Annotated[float, typer.Option(help="Of the FLOPs that maps may add.")] = math.inf,
) -> None:
    """Print seconds for labels and for streams, and what was found."""
    print("| model | labels, s | streams, s | streams | maps | digest |\n|---|---|---|---|---|---|")
    for name in MODELS:
        if only in name.lower():
            print(isolated(600, measure, name, share), flush=True)


if __name__ == "__main__":
    typer.run(main)
