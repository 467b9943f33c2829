"""Write a compressed model of transformers as configuration and safetensors."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import UnsupportedError
from fxprune.handover.report import plan_of, report
from fxprune.saving.configured import build_of, changes_of, find_config, has_config
from fxprune.saving.own_class import difference
from fxprune.saving.resize import load_into
from fxprune.verify.outputs import floating

ADVICE = (
    'Compress with keep_class="config", which changes only what a configuration can say, the same '
    'in all layers; or with keep_class=True, uniform_across="model.layers.*" and ignore= for the '
    "layers that it cannot say."
)


def to_hf(small: nn.Module, path: str | os.PathLike[str], model: nn.Module | None = None) -> None:
    """Write a compressed model into a folder that `from_pretrained` of transformers opens.

    The configuration's numbers (`intermediate_size`) are set to the sizes that were kept, a model
    is built of them, and its outputs are compared with those of `small` before anything is written.

    Args:
        small: of a class of transformers, as `compress(..., keep_class=...)` gives; or a graph from
            `compress`, with `model`.
        path: of the folder.
        model: the original, where `small` is a graph.

    Raises:
        UnsupportedError: no configuration says these sizes, or the class is none of transformers;
            says what to do.
        PlanError, StorageError: `small` did not come from fxprune, or does not fit the class.
    """
    plan = plan_of(small)
    if isinstance(small, GraphModule):
        if model is None:
            raise UnsupportedError(
                "to_hf: a graph has no configuration. Pass the original as model=, or compress "
                'with keep_class="config".'
            )
        own = load_into(model, small, None)
    else:
        own = small
    if not has_config(own):
        raise UnsupportedError(
            f"to_hf: a {type(own).__name__} is no model of transformers, which has a config and "
            "save_pretrained. fxprune.save and fxprune.load take any."
        )
    own = own.eval()
    try:
        config = find_config(own, own, changes_of(plan))
        made = build_of(own, config, own)
        problem = _compare(own, made)
    except UnsupportedError as error:
        raise UnsupportedError(f"to_hf: {error}. {ADVICE}") from error
    if problem:
        raise UnsupportedError(
            f"to_hf: {type(own).__name__} built of its configuration gives something else: "
            f"{problem}. {ADVICE}"
        )
    made.save_pretrained(os.fspath(path))  # type: ignore[operator]


@torch.no_grad()
def _compare(own: nn.Module, made: nn.Module) -> str:
    """What two models give differently on random inputs; empty where nothing."""
    for vocabulary in (int(getattr(own.config, "vocab_size", 2)), 2):
        inputs = _inputs(own, vocabulary)
        try:
            wanted = floating(own(**inputs))
        except IndexError:  # a shorter table, as of token types
            continue
        return difference(wanted, floating(made(**inputs)))
    return "the inputs that it was traced on cannot be made up"


def _inputs(own: nn.Module, vocabulary: int) -> dict[str, Tensor]:
    rows = report(own).inputs
    if not rows or not all(row.name for row in rows):
        raise UnsupportedError("it was calibrated on batches that are no dicts of tensors")
    generator = torch.Generator().manual_seed(0)
    device = next(own.parameters()).device
    found: dict[str, Any] = {}
    for row in rows:
        dtype = getattr(torch, row.dtype)
        if row.name.endswith("mask"):
            value = torch.ones(row.shape, dtype=dtype)
        elif dtype.is_floating_point:
            value = torch.randn(row.shape, generator=generator, dtype=dtype)
        else:
            value = torch.randint(0, vocabulary, row.shape, generator=generator).to(dtype)
        found[row.name] = value.to(device)
    return found
