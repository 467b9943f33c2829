"""Tiny random configurations of the common transformers architectures."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.models.entry import Entry
from benchmarks.models.tiny import IMAGE, TINY, Build, named, pixels, tokens
from benchmarks.models.zoo_scenes import SCENES
from benchmarks.models.zoo_sight import SIGHT, WINDOWS
from benchmarks.models.zoo_text import TEXT


def transformers_models() -> Iterator[Entry]:
    """Every configuration of `TRANSFORMERS`, `TEXT`, `SIGHT` and `SCENES`."""
    for name, build in (TRANSFORMERS | TEXT | SIGHT | SCENES).items():
        yield Entry(name, "transformers", build)


TRANSFORMERS: dict[str, Build] = {
    "bert": named("BertForSequenceClassification", tokens, vocab_size=100, **TINY),
    "distilbert": named(
        "DistilBertForSequenceClassification",
        tokens,
        vocab_size=100,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
    ),
    "roberta": named(
        "RobertaForSequenceClassification",
        tokens,
        vocab_size=100,
        pad_token_id=1,
        max_position_embeddings=64,
        **TINY,
    ),
    "vit": named("ViTForImageClassification", pixels, **TINY, **IMAGE),
    "deit": named("DeiTForImageClassification", pixels, **TINY, **IMAGE),
    "swin": named(
        "SwinForImageClassification",
        lambda: pixels(64),
        depths=[2, 2],
        **WINDOWS,
    ),
    "convnext": named(
        "ConvNextForImageClassification",
        lambda: pixels(64),
        hidden_sizes=[16, 32, 32, 48],
        depths=[1, 1, 2, 1],
    ),
    "gpt2": named(
        "GPT2LMHeadModel",
        tokens,
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        use_cache=False,
    ),
    "llama": named(
        "LlamaForCausalLM", tokens, vocab_size=100, num_key_value_heads=2, use_cache=False, **TINY
    ),
    "t5-encoder": named(
        "T5EncoderModel",
        tokens,
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
    ),
    "t5-gated": named(
        "T5EncoderModel",
        tokens,
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    ),
    "clip-vision": named("CLIPVisionModel", pixels, **TINY, **IMAGE),
    "wav2vec2": named(
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
