"""Models for the coverage benchmark: torchvision, one small member of every timm family, tiny transformers."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.torchvision_ops import torchvision  # before timm and transformers, which import it too

Build = Callable[[], tuple[nn.Module, Any]]
SMALL = (
    "test_", "zepto", "atto", "femto", "pico", "nano", "xxs", "xxtiny", "xx_small", "xtiny", "xs", "tiny", "t0", "small_050", "mini", "_t_",
    "18", "b0", "050", "s0", "small",
    "10", "12", "x_small", "_s", "lite", "26", "34", "b1", "base", "50",
)  # fmt: skip


class TooLarge(Exception):
    """The model has more parameters than asked for."""


def _within(model: nn.Module, most: float) -> nn.Module:
    count = sum(p.numel() for p in model.parameters())
    if count > most * 1e6:
        raise TooLarge(f"{count / 1e6:.0f}M parameters")
    return model


def torchvision_models(most: float) -> Iterator[tuple[str, str, Build]]:
    """Every classification, segmentation and video model."""
    models = torchvision.models
    for module in (models, models.segmentation, models.video):
        for name in models.list_models(module=module):
            yield name, "torchvision", lambda name=name: _torchvision(name, most)


def _torchvision(name: str, most: float) -> tuple[nn.Module, Any]:
    keywords: dict[str, Any] = {"weights": None}
    size = 64
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        keywords["weights_backbone"] = None
    if name.startswith(("googlenet", "inception")):
        keywords["init_weights"] = False
        size = 96
    if name.startswith("alexnet"):
        size = 96
    if name.startswith(("vit", "maxvit")):
        size = 224
        keywords |= {"image_size": 64} if name.startswith("vit") and "h_14" not in name else {}
    count = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    if count > most * 1e6:
        raise TooLarge(f"{count / 1e6:.0f}M parameters")
    model = torchvision.models.get_model(name, **keywords)
    if name.startswith("vit") and "h_14" not in name:
        size = 64
    if name in torchvision.models.list_models(module=torchvision.models.video):
        frames = 16
        size = 224 if name.startswith(("mvit", "s3d")) else 64
        return model, torch.randn(2, 3, frames, size, size)
    return model, torch.randn(2, 3, size, size)


def timm_families() -> dict[str, list[str]]:
    """Names by family, smallest first as far as the names tell."""
    import timm

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        family = re.match(r"(test_)?[a-z]+(v2|v3|v4|x|_x)?", name)
        families.setdefault(family.group(0) if family else name, []).append(name)

    def rank(name: str) -> tuple[int, int, str]:
        return next((i for i, part in enumerate(SMALL) if part in name), len(SMALL)), len(name), name

    return {k: sorted(v, key=rank) for k, v in families.items()}


def timm_models(count: int, most: float) -> Iterator[tuple[str, str, Build]]:
    """One small member of each of the first `count` families."""
    for _, names in list(timm_families().items())[:count]:
        yield names[0], "timm", lambda names=names: _timm(names[0], most)


def _timm(name: str, most: float) -> tuple[nn.Module, Any]:
    import timm

    config = timm.get_pretrained_cfg(name)
    size = (config.input_size if config else (3, 224, 224))[-1]
    fixed = bool(config and config.fixed_input_size)
    tried = (None, size) if fixed else (64 if size < 400 else 128, 128, size)
    error: Exception | None = None
    for wanted in dict.fromkeys(tried):
        try:
            keywords = {"img_size": 64} if wanted is None else {}
            model = timm.create_model(name, pretrained=False, **keywords).eval()
            _within(model, most)
            example = torch.randn(2, 3, wanted or 64, wanted or 64)
            with torch.no_grad():
                model(example)
            return model, example
        except TooLarge:
            raise
        except Exception as caught:
            error = caught
    raise error or RuntimeError(name)


def transformers_models() -> Iterator[tuple[str, str, Build]]:
    """Tiny random configurations of the common architectures."""
    for name, build in TRANSFORMERS.items():
        yield name, "transformers", build


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
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
    "distilbert": _named("DistilBertForSequenceClassification", _tokens, vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "roberta": _named("RobertaForSequenceClassification", _tokens, vocab_size=100, pad_token_id=1, max_position_embeddings=64, **TINY),
    "vit": _named("ViTForImageClassification", _pixels, **TINY, **IMAGE),
    "deit": _named("DeiTForImageClassification", _pixels, **TINY, **IMAGE),
    "swin": _named(
        "SwinForImageClassification", lambda: _pixels(64), image_size=64, patch_size=4, embed_dim=16, depths=[2, 2],
        num_heads=[2, 4], window_size=4,
    ),
    "convnext": _named("ConvNextForImageClassification", lambda: _pixels(64), hidden_sizes=[16, 32, 32, 48], depths=[1, 1, 2, 1]),
    "gpt2": _named("GPT2LMHeadModel", _tokens, vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False),
    "llama": _named("LlamaForCausalLM", _tokens, vocab_size=100, num_key_value_heads=2, use_cache=False, **TINY),
    "t5-encoder": _named("T5EncoderModel", _tokens, vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
    "t5-gated": _named(
        "T5EncoderModel", _tokens, vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    ),
    "clip-vision": _named("CLIPVisionModel", _pixels, **TINY, **IMAGE),
    "wav2vec2": _named(
        "Wav2Vec2Model", lambda: {"input_values": torch.randn(2, 1600)}, conv_dim=[16, 16, 16], conv_stride=[5, 2, 2],
        conv_kernel=[10, 3, 3],
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0, **TINY,
    ),
    "whisper-encoder": lambda: _whisper(),
}  # fmt: skip


def _whisper() -> tuple[nn.Module, Any]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, num_mel_bins=16, max_source_positions=20
    )
    return WhisperEncoder(config), {"input_features": torch.randn(2, 16, 40)}
