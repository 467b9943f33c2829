"""Tiny random configurations of transformers: detection, segmentation, depth, images with text."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.models.tiny import IMAGE, TINY, WORDS, Build, named, pixels, tokens
from benchmarks.models.zoo_sight import PYRAMID, STAGES, VIT, large

DETR = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
}


def _both(size: int = 32, length: int = 12) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 96, (2, length)), **pixels(size)}


def _plain(kind: str, **options: Any) -> Any:
    """A configuration by its name."""
    import transformers

    return getattr(transformers, kind)(**options)


def _configured(architecture: str, inputs: Any, options: Callable[[], dict[str, Any]]) -> Build:
    """An architecture whose options hold configurations, made when its turn comes."""
    return lambda: named(architecture, inputs, **options())()


def _swin(**more: Any) -> Any:
    return _plain(
        "SwinConfig",
        image_size=64,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 4, 4],
        window_size=4,
        **more,
    )


def _convnext(**more: Any) -> Any:
    return _plain("ConvNextConfig", **STAGES, **more)


def _dinov2() -> Any:
    layers = {"num_hidden_layers": 4}
    stages = {"out_features": [f"stage{i}" for i in range(1, 5)], "reshape_hidden_states": False}
    return _plain("Dinov2Config", **(VIT | layers | stages))


def _detr(*features: str) -> dict[str, Any]:
    """A detector over a small residual network."""
    backbone = _plain(
        "ResNetConfig",
        embedding_size=16,
        layer_type="basic",
        out_features=list(features or ("stage4",)),
        **STAGES,
    )
    return {**DETR, "use_timm_backbone": False, "backbone": None, "backbone_config": backbone}


def _rt_detr(kind: str) -> dict[str, Any]:
    backbone = _plain(
        f"{kind}ResNetConfig",
        embedding_size=16,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
        **STAGES,
    )
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 6}
    widths = {"encoder_hidden_dim": 32, "encoder_ffn_dim": 64, "d_model": 32}
    inside = {"encoder_in_channels": [24, 32, 48], "decoder_in_channels": [32, 32, 32]}
    return {
        "backbone_config": backbone,
        "decoder_ffn_dim": 64,
        "decoder_layers": 2,
        "num_denoising": 0,
        **heads,
        **widths,
        **inside,
    }


def _towers(kind: str) -> dict[str, Any]:
    text = _plain(f"{kind}TextConfig", pad_token_id=0, bos_token_id=1, eos_token_id=2, **WORDS)
    return {"text_config": text, "vision_config": _plain(f"{kind}VisionConfig", **VIT)}


def _llava() -> dict[str, Any]:
    return {
        "vision_config": _plain("CLIPVisionConfig", **VIT),
        "text_config": _plain("LlamaConfig", vocab_size=100, use_cache=False, **TINY),
        "image_token_index": 99,
        "vision_feature_layer": -1,
    }


def _seen() -> dict[str, torch.Tensor]:
    """Images, and texts with a place for each of their patches."""
    ids = torch.randint(3, 96, (2, 24))
    ids[:, 2:18] = 99
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels()}


SCENES: dict[str, Build] = {
    "segformer": named(
        "SegformerForSemanticSegmentation",
        large,
        decoder_hidden_size=32,
        **PYRAMID,
    ),
    "glpn": named(
        "GLPNForDepthEstimation",
        large,
        decoder_hidden_size=16,
        **PYRAMID,
    ),
    "upernet": _configured(
        "UperNetForSemanticSegmentation",
        large,
        lambda: {
            "backbone_config": _convnext(out_features=["stage1", "stage2", "stage3", "stage4"]),
            "hidden_size": 16,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 16,
        },
    ),
    "dpt": named(
        "DPTForDepthEstimation",
        pixels,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
        **(VIT | {"num_hidden_layers": 4}),
    ),
    "depth-anything": _configured(
        "DepthAnythingForDepthEstimation",
        pixels,
        lambda: {
            "backbone_config": _dinov2(),
            "patch_size": 8,
            "reassemble_hidden_size": 32,
            "neck_hidden_sizes": [8, 16, 24, 32],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
    ),
    "maskformer": _configured(
        "MaskFormerForInstanceSegmentation",
        large,
        lambda: {
            "backbone_config": _swin(out_features=["stage1", "stage2", "stage3", "stage4"]),
            "decoder_config": _plain("DetrConfig", **DETR),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
    ),
    "mask2former": _configured(
        "Mask2FormerForUniversalSegmentation",
        large,
        lambda: {
            "backbone_config": _swin(out_features=["stage1", "stage2", "stage3", "stage4"]),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "dim_feedforward": 64,
            "num_queries": 6,
        },
    ),
    "detr": _configured("DetrForObjectDetection", large, lambda: _detr()),
    "table-transformer": _configured("TableTransformerForObjectDetection", large, lambda: _detr()),
    "conditional-detr": _configured("ConditionalDetrForObjectDetection", large, lambda: _detr()),
    "deformable-detr": _configured(
        "DeformableDetrForObjectDetection",
        large,
        lambda: (
            _detr("stage2", "stage3", "stage4") | {"disable_custom_kernels": True, "d_model": 64}
        ),
    ),
    "rt-detr": _configured("RTDetrForObjectDetection", large, lambda: _rt_detr("RTDetr")),
    "rt-detr-v2": _configured("RTDetrV2ForObjectDetection", large, lambda: _rt_detr("RTDetr")),
    "clip": _configured("CLIPModel", _both, lambda: _towers("CLIP")),
    "siglip": _configured("SiglipModel", _both, lambda: _towers("Siglip")),
    "clip-text": named("CLIPTextModelWithProjection", tokens, projection_dim=16, **WORDS),
    "altclip-vision": named("AltCLIPVisionModel", pixels, **VIT),
    "owlvit-vision": named("OwlViTVisionModel", pixels, **VIT),
    "groupvit-vision": named(
        "GroupViTVisionModel",
        pixels,
        hidden_size=32,
        intermediate_size=64,
        depths=[1, 1, 1],
        num_attention_heads=4,
        num_group_tokens=[8, 4, 0],
        num_output_groups=[8, 4, 0],
        **IMAGE,
    ),
    "blip-vision": named("BlipVisionModel", pixels, initializer_range=0.02, **VIT),
    "vilt": named("ViltModel", _both, **WORDS, **IMAGE),
    "llava": _configured("LlavaForConditionalGeneration", _seen, lambda: _llava()),
}
