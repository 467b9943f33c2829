"""Where the channel graph's parts lie: layers in the order of their calls, strands side by side."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.drawing.channels import columns_of, size_of
from fxprune.drawing.lanes import Lanes, lay_out
from tests.nets import Net, images, tiny


def lanes_of(model: nn.Module, example: Tensor) -> Lanes:
    return lay_out(fxprune.analyze(model, example))


def mobile() -> nn.Module:
    """A stem, then blocks whose depthwise convolution works channel by channel, one of them with a
    residual connection; its layers are registered in no order.
    """

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = net.get_submodule("stem")(x)
        x = net.get_submodule("narrow")(torch.relu(net.get_submodule("deep")(x)))
        y = torch.relu(net.get_submodule("wide")(x))
        return net.get_submodule("head")((net.get_submodule("back")(y) + x).mean((2, 3)))  # type: ignore[no-any-return]

    return Net(
        forward,
        head=nn.Linear(6, 2),
        wide=nn.Conv2d(6, 20, 1),
        back=nn.Conv2d(20, 6, 1),
        stem=nn.Conv2d(3, 8, 3, padding=1),
        narrow=nn.Conv2d(8, 6, 1),
        deep=nn.Conv2d(8, 8, 3, padding=1, groups=8),
    ).eval()


def dense() -> nn.Module:
    """Layers that read all before them."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        for name in ("a", "b", "c"):
            x = torch.cat([x, torch.relu(net.get_submodule(name)(x))], 1)
        return net.get_submodule("head")(x.mean((2, 3)))  # type: ignore[no-any-return]

    sizes = {"a": (3, 8), "b": (11, 9), "c": (20, 10)}
    layers = {name: nn.Conv2d(*size, 3, padding=1) for name, size in sizes.items()}
    return Net(forward, **layers, head=nn.Linear(30, 2)).eval()


def test_rows_say_what_a_layer_makes_reads_and_scales() -> None:
    lanes = lanes_of(mobile(), images(2))
    assert [
        (row.name, len(row.reads), len(row.makes), len(row.scales), row.stays) for row in lanes.rows
    ] == [
        ("stem", 0, 1, 0, "its 3 inputs stay"),
        ("deep", 0, 0, 1, ""),
        ("narrow", 1, 1, 0, ""),
        ("wide", 1, 1, 0, ""),
        ("back", 1, 1, 0, ""),
        ("head", 1, 0, 0, "its 2 outputs stay"),
    ]
    found = [(s.text, s.first, s.last, s.coupled) for s in lanes.strands.values()]
    assert sorted(found, key=lambda strand: strand[1:3]) == [
        ("8", 0, 2, False),
        ("6", 2, 5, True),
        ("20", 3, 4, False),
    ]


def test_a_concatenation_is_read_in_parts() -> None:
    lanes = lanes_of(dense(), images(2))
    assert [(row.name, len(row.reads), row.stays) for row in lanes.rows] == [
        ("a", 0, "its 3 inputs stay"),
        ("b", 1, "reads others too, which stay"),
        ("c", 2, "reads others too, which stay"),
        ("head", 3, "reads others too, which stay"),
    ]
    assert lanes.count == 3


@pytest.mark.parametrize("make", [tiny, mobile, dense])
def test_no_strand_lies_on_another(make: Callable[[], nn.Module]) -> None:
    lanes = lanes_of(make(), images(2))
    taken = [
        (strand.lane, row)
        for strand in lanes.strands.values()
        for row in range(strand.first, strand.last + 1)
    ]
    assert len(taken) == len(set(taken))
    touched = {group for row in lanes.rows for group in row.touched}
    assert touched == set(lanes.strands)


def test_long_models_are_shown_in_columns() -> None:
    lanes = lanes_of(mobile(), images(2))
    many = Lanes(lanes.rows * 20, lanes.strands)
    assert columns_of(lanes) == 1
    assert columns_of(many) > 2
    across, down = size_of(many)
    assert 0.7 < across / down < 3
