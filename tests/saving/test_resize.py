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
    [
        "vgg",
        "mlp",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet20", "mobilenet", "densenet")),
    ],
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


class Plain(nn.Module):
    """Holds a weight and a scale as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.first = nn.Linear(6, 24), nn.Linear(24, 16)
        self.last = nn.Linear(12, 3)
        draw = torch.Generator().manual_seed(1)
        self.weight = torch.randn(12, 16, generator=draw)
        self.scale = torch.rand(12, generator=draw)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(torch.relu(self.start(x))))
        y = nn.functional.linear(y, self.weight) * self.scale
        result: torch.Tensor = self.last(torch.relu(y))
        return result


@pytest.mark.parametrize("ignored", [(), ("first.bias", "last")], ids=["resized", "refitted"])
def test_tensors_that_are_plain_attributes_are_loaded_too(
    ignored: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, x = Plain().eval(), torch.randn(600, 6)
    small = fxprune.compress(
        net, x, flops=0.35, method="channels", ignore=ignored, decision="close", progress=False
    )
    assert (small.get_buffer("weight").shape == net.weight.shape) == bool(ignored)
    fxprune.save(small, tmp_path / "small.safetensors")
    held = net.weight.clone()
    mine = fxprune.load(tmp_path / "small.safetensors", into=net)
    with torch.no_grad():
        torch.testing.assert_close(mine(x[:5]), small(x[:5]))
    assert torch.equal(net.weight, held)
    assert not torch.equal(mine.weight, held)
    del net.scale
    with pytest.raises(StorageError, match="the module has no scale"):
        fxprune.load(tmp_path / "small.safetensors", into=net)
