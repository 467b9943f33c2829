"""Tiny random configurations of the common transformers architectures."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.models import torchvision_ops  # noqa: F401  (before transformers, which imports torchvision too)
from benchmarks.models.entry import Entry

Build = Callable[[], tuple[nn.Module, Any]]


def transformers_models() -> Iterator[Entry]:
    """Every configuration of `TRANSFORMERS`."""
    for name, build in TRANSFORMERS.items():
        yield Entry(name, "transformers", build)


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
IMAGE = {"image_size": 32, "patch_size": 8}


def _tokens(**more: Any) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 96, (2, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | more


def _pixels(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def _named(architecture: str, inputs: Callable[[], Any], **options: Any) -> Build:
    def build() -> tuple[nn.Module, Any]:
        import transformers

        kind = architecture
        config_class = getattr(transformers, kind).config_class
        config = config_class(**options)
        return getattr(transformers, kind)(config), inputs()

    return build


TRANSFORMERS: dict[str, Build] = {
    "bert": _named("BertForSequenceClassification", _tokens, vocab_size=100, **TINY),
    "distilbert": _named(
        "DistilBertForSequenceClassification",
        _tokens,
        vocab_size=100,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
    ),
    "roberta": _named(
        "RobertaForSequenceClassification",
        _tokens,
        vocab_size=100,
        pad_token_id=1,
        max_position_embeddings=64,
        **TINY,
    ),
    "vit": _named("ViTForImageClassification", _pixels, **TINY, **IMAGE),
    "deit": _named("DeiTForImageClassification", _pixels, **TINY, **IMAGE),
    "swin": _named(
        "SwinForImageClassification",
        lambda: _pixels(64),
        image_size=64,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "convnext": _named(
        "ConvNextForImageClassification",
        lambda: _pixels(64),
        hidden_sizes=[16, 32, 32, 48],
        depths=[1, 1, 2, 1],
    ),
    "gpt2": _named(
        "GPT2LMHeadModel",
        _tokens,
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        use_cache=False,
    ),
    "llama": _named(
        "LlamaForCausalLM", _tokens, vocab_size=100, num_key_value_heads=2, use_cache=False, **TINY
    ),
    "t5-encoder": _named(
        "T5EncoderModel",
        _tokens,
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
    ),
    "t5-gated": _named(
        "T5EncoderModel",
        _tokens,
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    ),
    "clip-vision": _named("CLIPVisionModel", _pixels, **TINY, **IMAGE),
    "wav2vec2": _named(
        "Wav2Vec2Model",
        lambda: {"input_values": torch.randn(2, 1600)},
        conv_dim=[16, 16, 16],
        conv_stride=[5, 2, 2],
        conv_kernel=[10, 3, 3],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
        **TINY,
    ),
    "whisper-encoder": lambda: _whisper(),
}


def _whisper() -> tuple[nn.Module, Any]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        num_mel_bins=16,
        max_source_positions=20,
    )
    return WhisperEncoder(config), {"input_features": torch.randn(2, 16, 40)}
