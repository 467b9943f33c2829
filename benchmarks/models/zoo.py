"""Models for the coverage benchmark: torchvision and one small member of every timm family."""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.models.entry import Entry, TooLarge, within
from benchmarks.models.torchvision_ops import torchvision  # before timm, which imports it too

SMALL = (
    "test_",
    "zepto",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xxtiny",
    "xx_small",
    "xtiny",
    "xs",
    "tiny",
    "t0",
    "small_050",
    "mini",
    "_t_",
    "18",
    "b0",
    "050",
    "s0",
    "small",
    "10",
    "12",
    "x_small",
    "_s",
    "lite",
    "26",
    "34",
    "b1",
    "base",
    "50",
)


def torchvision_models(most: float) -> Iterator[Entry]:
    """Every classification, segmentation and video model."""
    models = torchvision.models
    for module in (models, models.segmentation, models.video):
        for name in models.list_models(module=module):
            yield Entry(name, "torchvision", partial(_torchvision, name, most))


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


CUT = {"aimv2_1b_patch14_224": {"depth": 2}, "deepseek_vit_412m": {"depth": 2}}
"""What makes the smallest members of some families small enough."""


def timm_families() -> dict[str, list[str]]:
    """Names by family, smallest first as far as the names tell."""
    import timm

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        family = re.match(r"(test_)?[a-z]+(v2|v3|v4|x|_x)?", name)
        families.setdefault(family.group(0) if family else name, []).append(name)
    return {family: sorted(names, key=_rank) for family, names in families.items()}


# A number is one only as a whole: 512 is not 12.
PARTS = [re.compile(f"(?<!\\d){part}(?!\\d)" if part.isdigit() else part) for part in SMALL]


def _rank(name: str) -> tuple[int, int, str]:
    """The smaller, the lower, as far as a name tells."""
    found = next((i for i, part in enumerate(PARTS) if part.search(name)), len(PARTS))
    return found, len(name), name


def timm_models(count: int, most: float) -> Iterator[Entry]:
    """One small member of each of the first `count` families, and where that is all of them, of
    each of timm's modules that has none among these.
    """
    import timm

    families = timm_families()
    chosen = [names[0] for names in families.values()][:count]
    if count >= len(families):
        for module in timm.list_modules():
            names = sorted(timm.list_models(module=module), key=_rank)
            if names and not set(names) & set(chosen):
                chosen.append(names[0])
    for name in chosen:
        shown = f"{name}, {CUT[name]['depth']} blocks" if name in CUT else name
        yield Entry(shown, "timm", partial(_timm, name, most, **CUT.get(name, {})))


def _timm(name: str, most: float, **cut: Any) -> tuple[nn.Module, Any]:
    import timm

    config = timm.get_pretrained_cfg(name)
    size = (config.input_size if config else (3, 224, 224))[-1]
    fixed = bool(config and config.fixed_input_size)
    tried = (None, size) if fixed else (64 if size < 400 else 128, 128, size)
    # Without values first: initializing what is too large takes longer than examining what is not.
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        within(timm.create_model(name, pretrained=False, **cut), most)
    error: Exception | None = None
    for wanted in dict.fromkeys(tried):
        try:
            keywords: dict[str, Any] = cut | ({"img_size": 64} if wanted is None else {})
            model = timm.create_model(name, pretrained=False, **keywords).eval()
            within(model, most)
            example = torch.randn(2, 3, wanted or 64, wanted or 64)
            with torch.no_grad():
                model(example)
            return model, example
        except TooLarge:
            raise
        except Exception as caught:
            error = caught
    raise error or RuntimeError(name)
