"""Saved models loaded into the original's class, and refused by others."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from benchmarks.models import nets
from fxprune.demo import data
from fxprune.errors import StorageError
from tests.saving.trained import compressed


@pytest.mark.parametrize(
    "name",
    ["vgg", "resnet20", "mobilenet", pytest.param("densenet", marks=pytest.mark.slow), "mlp"],
)
def test_into_the_original_class(name: str, tmp_path: Path) -> None:
    small, original = compressed(name), nets.NETS[name]().eval()
    state = copy.deepcopy(original.state_dict())
    fxprune.save(small, tmp_path / "small.safetensors")
    resized = fxprune.load(tmp_path / "small.safetensors", into=original)
    assert type(resized) is type(original)
    images = data.load().images[:32]
    with torch.no_grad():
        assert torch.equal(resized(images), small(images))
    for path, layer in resized.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (
                layer.out_channels,
                layer.in_channels // layer.groups,
            ), path
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features), path
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None, path
            assert layer.num_features == len(layer.running_mean) == len(layer.weight), path
    assert all(torch.equal(t, state[k]) for k, t in original.state_dict().items())
    assert fxprune.report(resized) == fxprune.report(small)


def test_into_another_class_is_refused(tmp_path: Path) -> None:
    fxprune.save(compressed("vgg"), tmp_path / "small.safetensors")
    with pytest.raises(StorageError, match="do not fit into this ResNet20.*no features.0.weight"):
        fxprune.load(tmp_path / "small.safetensors", into=nets.NETS["resnet20"]())
    wider = nets.NETS["vgg"]()
    wider.set_submodule("features.0", nn.Conv2d(1, 40, 3))
    with pytest.raises(StorageError, match=r"features.0.weight has the shape \(40, 1, 3, 3\)"):
        fxprune.load(tmp_path / "small.safetensors", into=wider)
    with pytest.raises(StorageError, match="device='nonsense' is not a device"):
        fxprune.load(tmp_path / "small.safetensors", device="nonsense")
    with pytest.raises(StorageError, match="not a dict"):
        fxprune.load(tmp_path / "small.safetensors", into={})  # type: ignore[call-overload]
