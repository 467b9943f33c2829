"""Tiny random configurations of transformers: images, videos."""

import torch

from benchmarks.models.tiny import IMAGE, TINY, Build, named, pixels

VIT = {**TINY, **IMAGE}
PYRAMID = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "mlp_ratios": [2, 2, 2, 2],
}
WINDOWS = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}


def large() -> dict[str, torch.Tensor]:
    """Two images for nets of several stages."""
    return pixels(64)


SIGHT: dict[str, Build] = {
    "vit-msn": named("ViTMSNForImageClassification", pixels, **VIT),
    "yolos": named(
        "YolosForObjectDetection",
        pixels,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=5,
        use_mid_position_embeddings=False,
        **TINY,
    ),
    "dinov2": named("Dinov2ForImageClassification", pixels, **VIT),
    "beit": named("BeitForImageClassification", pixels, use_relative_position_bias=True, **VIT),
    "data2vec-vision": named("Data2VecVisionForImageClassification", pixels, **VIT),
    "vitdet": named(
        "VitDetBackbone", pixels, window_block_indices=[0], window_size=2, mlp_ratio=2, **VIT
    ),
    "levit": named(
        "LevitForImageClassification",
        large,
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        mlp_ratio=[2, 2, 2],
        attention_ratio=[2, 2, 2],
    ),
    "swinv2": named(
        "Swinv2ForImageClassification",
        large,
        depths=[1, 1],
        **WINDOWS,
    ),
    "donut-swin": named(
        "DonutSwinModel",
        large,
        depths=[1, 1],
        **WINDOWS,
    ),
    "hiera": named(
        "HieraForImageClassification",
        large,
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 1, 1],
        num_heads=[1, 2, 4],
        query_stride=[2, 2],
        num_query_pool=1,
        masked_unit_size=[4, 4],
    ),
    "pvt": named(
        "PvtForImageClassification",
        large,
        image_size=64,
        **PYRAMID,
    ),
    "pvt-v2": named(
        "PvtV2ForImageClassification",
        large,
        image_size=64,
        **PYRAMID,
    ),
    "cvt": named(
        "CvtForImageClassification",
        large,
        embed_dim=[16, 24, 32],
        num_heads=[1, 2, 4],
        depth=[1, 2, 3],
    ),
    "convnext-v2": named("ConvNextV2ForImageClassification", large, **STAGES),
    "poolformer": named(
        "PoolFormerForImageClassification",
        large,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        mlp_ratio=2.0,
    ),
    "bit": named("BitForImageClassification", large, embedding_size=16, num_groups=4, **STAGES),
    "regnet": named(
        "RegNetForImageClassification", large, embedding_size=16, groups_width=8, **STAGES
    ),
    "resnet": named("ResNetForImageClassification", large, embedding_size=16, **STAGES),
    "mobilevit": named(
        "MobileViTForImageClassification",
        large,
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 16, 24, 24, 32, 64],
        num_attention_heads=4,
    ),
    "mobilevit-v2": named(
        "MobileViTV2ForImageClassification", large, image_size=64, width_multiplier=0.25
    ),
    "mobilenet-v2": named("MobileNetV2ForImageClassification", large, depth_multiplier=0.25),
    "swiftformer": named(
        "SwiftFormerForImageClassification",
        large,
        image_size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[16, 24, 32, 48],
    ),
    "focalnet": named(
        "FocalNetForImageClassification",
        large,
        image_size=64,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        hidden_sizes=[16, 32],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
    ),
    "timesformer": named(
        "TimesformerForVideoClassification",
        lambda: {"pixel_values": torch.randn(2, 2, 3, 32, 32)},
        num_frames=2,
        **VIT,
    ),
    "videomae": named(
        "VideoMAEForVideoClassification",
        lambda: {"pixel_values": torch.randn(2, 2, 3, 32, 32)},
        num_frames=2,
        **VIT,
    ),
}
