"""Residual streams of models of transformers in new coordinates: the same outputs, what is left of
them the same as zeros, and why others stay.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.profile.folding import Streams
from fxprune.profile.streams import prepare_streams
from tests.streams import turned

torchvision = pytest.importorskip("benchmarks.models.torchvision_ops")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
IMAGE = SIZES | {"hidden_size": 32, "image_size": 16, "patch_size": 8}
TEXT = SIZES | {"hidden_size": 32, "vocab_size": 50, "use_cache": False}
GPT = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "use_cache": False}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16}
T5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8, "vocab_size": 50}
UNTIED = {"tie_word_embeddings": False, "num_key_value_heads": 2}


class Out(nn.Module):
    """Logits of a model, or of a head on the mean of its last hidden states, or, where its width is
    given as a negative number, on what the model pools.
    """

    def __init__(self, body: nn.Module, width: int = 0):
        super().__init__()
        self.body, self.head = body, nn.Linear(abs(width), 5) if width else None
        self.pooled = width < 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        if self.head is None:
            logits: Tensor = out.logits
        else:
            logits = self.head(out.pooler_output if self.pooled else out[0].mean(1))
        return logits


def made(kind: str, config: dict[str, Any], width: int = 0) -> Callable[[], nn.Module]:
    """A model with random weights, those of its norms too."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        found = getattr(transformers, kind)
        net = Out(found(found.config_class(**config)), width).eval()
        with torch.no_grad():
            for tensor in net.parameters():
                tensor.add_(0.2 * torch.randn_like(tensor))
        return net

    return make


IMAGES, TOKENS = torch.randn(2, 3, 16, 16), torch.randint(3, 48, (2, 9))
ROTATED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "ViT": (made("ViTForImageClassification", IMAGE), IMAGES, "layer"),
    # With layer scale, and keys without a bias.
    "BEiT": (made("BeitForImageClassification", IMAGE), IMAGES, "layer"),
    "GPT-2": (made("GPT2LMHeadModel", GPT | {"tie_word_embeddings": False}), TOKENS, "layer"),
    "Llama": (made("LlamaForCausalLM", TEXT | UNTIED), TOKENS, "rms"),
    "T5": (made("T5EncoderModel", T5, 32), TOKENS, "rms"),
}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2}
SWIN_2 = SWIN | {"depths": [1], "num_heads": [2]}
NORMS = {"rms": {False}, "layer": {True}, "means": {True, False}}
"""Whether streams have no mean: those of layer norms that nothing else reads have none."""
BERT = {**TEXT, "use_cache": True}
IN_BERT = "body.bert.encoder.layer.0.attention.output.LayerNorm_map"
MAPPED: dict[str, tuple[Callable[[], nn.Module], Tensor, str, tuple[str, ...]]] = {
    # A head that is the embedding; the mean of a layer norm cannot be taken from that either.
    "tied Llama": (
        made("LlamaForCausalLM", TEXT | {"tie_word_embeddings": True}),
        TOKENS,
        "rms",
        ("body.model.norm_map",),
    ),
    "tied GPT-2": (
        made("GPT2LMHeadModel", GPT),
        TOKENS,
        "layer",
        ("body.transformer.ln_f_map", "body.transformer.wte_map"),
    ),
    # Norms behind the residual sums: the last one has readers for all it has.
    "BERT": (
        made("BertForSequenceClassification", BERT),
        TOKENS,
        "layer",
        ("body.bert.embeddings.LayerNorm_map", IN_BERT),
    ),
    "BERT with a tied head": (
        made("BertForMaskedLM", BERT),
        TOKENS,
        "layer",
        (
            "body.bert.embeddings.LayerNorm_map",
            IN_BERT,
            "body.bert.embeddings.word_embeddings_map",
        ),
    ),
    # Its blocks read the stream as it is: that of the first norm alone is rotated.
    "Swin 2": (
        made("Swinv2ForImageClassification", SWIN_2),
        IMAGES,
        "layer",
        ("body.swinv2.embeddings.norm_map",),
    ),
    # A norm over four tokens' channels reads the first stream, which keeps its mean.
    "Swin": (
        made("SwinForImageClassification", SWIN),
        IMAGES,
        "means",
        ("body.swin.embeddings.norm_map", "body.swin.encoder.layers.0.blocks.0_map"),
    ),
    # Filters per channel read it.
    "ConvNeXt": (
        made("ConvNextModel", CONVNEXT, -16),
        IMAGES,
        "means",
        (
            "body.embeddings.layernorm_map",
            "body.embeddings.layernorm_map2",
            "body.encoder.stages.1.downsampling_layer.1_map",
        ),
    ),
    # A head reads the stream itself, with its mean.
    "CLIP without its last norm": (
        made("CLIPVisionModel", IMAGE, 32),
        IMAGES,
        "means",
        ("body.pre_layrnorm_map",),
    ),
    # A norm before the first block.
    "CLIP": (
        made("CLIPVisionModel", IMAGE, -32),
        IMAGES,
        "layer",
        ("body.pre_layrnorm_map",),
    ),
}


def prepared(make: Callable[[], nn.Module], x: Tensor) -> tuple[GraphModule, Streams, Tensor]:
    """The captured graph, what is known of its streams, and the input; in float64 where the
    forward does not cast.
    """
    net = make()
    if not any("RMS" in type(m).__name__ or "T5" in type(m).__name__ for m in net.modules()):
        net = net.double()
        x = x.double() if x.is_floating_point() else x
    captured = capture(net, make_batch((x,), {}))
    analysis = analyze_graph(captured.graph, len(x))
    return captured.graph, prepare_streams(captured.graph, analysis, lambda name: False), x


@pytest.mark.parametrize("name", [*ROTATED, *MAPPED])
def test_streams_in_new_coordinates(name: str) -> None:
    make, x, norm, maps = MAPPED[name] if name in MAPPED else (*ROTATED[name], ())
    graph, streams, x = prepared(make, x)
    assert streams.maps == maps
    assert streams.graph is not None
    assert streams.analysis is not None
    assert set(streams.centered.values()) <= NORMS[norm]
    assert name in MAPPED or not streams.reasons
    *errors, effect = turned(graph, streams, x, 0.8)
    exact = 1e-8 if next(graph.parameters()).dtype == torch.float64 else 1e-4
    assert max(errors) < exact
    assert effect > 100 * exact


@pytest.mark.parametrize(
    ("config", "maps"), [({"tie_word_embeddings": False}, 0), ({}, len(MAPPED["tied GPT-2"][3]))]
)
def test_a_cast_to_single_precision_is_linear(config: dict[str, Any], maps: int) -> None:
    """GPT-2 brings its positions to the dtype of its tokens."""
    net = made("GPT2LMHeadModel", GPT | config)().float()
    captured = capture(net, make_batch((TOKENS,), {}))
    analysis = analyze_graph(captured.graph, len(TOKENS))
    streams = prepare_streams(captured.graph, analysis, lambda name: False)
    assert set(streams.centered.values()) == {True}
    assert len(streams.maps) == maps


def test_a_norm_that_is_compared_stays() -> None:
    """What a comparison gives is no number that a scale could be folded through."""

    class Compared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.first(x))
            logits: Tensor = self.head(y.masked_fill(y > 1, 0.5))
            return logits

    found = fxprune.analyze(Compared().eval(), torch.zeros(2, 6))
    assert "something else than linear layers" in found.unmixed["first"]
