"""Norms with frozen statistics are computed with the convolutions before them, to the same end."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

import fxprune
from fxprune.recovery.features import tap
from fxprune.recovery.frozen import scaled

CPU = torch.device("cpu")


def settled(module: nn.Module) -> nn.Module:
    """With statistics that are not those of a new norm."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
    return module.eval()


def folded(graph: GraphModule) -> int:
    """How many norms are."""
    return sum(node.target is scaled for node in graph.graph.nodes)


def answers(graph: GraphModule, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a tapped graph gives, and the gradients of its parameters."""
    graph.zero_grad()
    (output,) = graph(*inputs)[1]
    output.square().sum().backward()
    return output.detach(), {
        name: p.grad.clone() for name, p in graph.named_parameters() if p.grad is not None
    }


def same(module: GraphModule, *inputs: Tensor) -> int:
    """Check that outputs and gradients are the same; how many norms were folded."""
    plain, frozen = tap(module, [], CPU), tap(module, [], CPU, frozen=True)
    (output, gradients), (own, others) = answers(plain, *inputs), answers(frozen, *inputs)
    torch.testing.assert_close(own, output)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-4)
    assert folded(plain) == 0
    return folded(frozen)


def stack() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, dilation=2, groups=4),
        nn.BatchNorm2d(32, affine=False, eps=1e-3),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def test_values_and_gradients_are_those_of_the_norms() -> None:
    data = torch.randn(8, 4, 16, 16)
    small = fxprune.compress(
        settled(stack()), [torch.randn(16, 4, 16, 16)] * 4, flops=0.6, progress=False
    )
    layers = [n for n in small.graph.nodes if n.op == "call_module"]
    assert layers
    for parameter in small.parameters():
        parameter.requires_grad_()
    assert same(small, data) == 2


def test_norms_behind_calls_are_folded_as_those_behind_layers() -> None:
    original = torch.export.export(settled(stack()), (torch.randn(8, 4, 16, 16),)).module()
    assert isinstance(original, GraphModule)
    calls = {str(node.target) for node in original.graph.nodes}
    assert {"aten.conv2d.default", "aten.batch_norm.default"} <= calls
    for node in list(original.graph.nodes):  # checks of the shapes are no part of a captured graph
        if node.op == "call_module":
            original.graph.erase_node(node)
    original.recompile()
    for parameter in original.parameters():
        parameter.requires_grad_()
    assert same(original, torch.randn(8, 4, 16, 16)) == 2


@pytest.mark.parametrize(
    ("convolution", "norm", "shape"),
    [(nn.Conv1d, nn.BatchNorm1d, (3, 4, 9)), (nn.Conv3d, nn.BatchNorm3d, (3, 4, 5, 6, 7))],
)
def test_other_ranks(
    convolution: Callable[..., nn.Module], norm: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    module = symbolic_trace(settled(nn.Sequential(convolution(4, 6, 3), norm(6), nn.Tanh())))
    assert same(module_of(module), torch.randn(*shape)) == 1


class Twice(nn.Module):
    """What the convolution gives is read by more than its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        both: Tensor = self.norm(y) + y
        return both


@pytest.mark.parametrize(
    "module",
    [
        Twice(),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)),
    ],
    ids=["read twice", "transposed", "reflects", "no statistics", "before"],
)
def test_other_norms_stay(module: nn.Module) -> None:
    assert same(module_of(symbolic_trace(settled(module))), torch.randn(2, 4, 8, 8)) == 0


@pytest.mark.parametrize("part", [[], ["0"]], ids=["whole", "weights"])
def test_norms_of_half_precision_stay(part: list[str]) -> None:
    """Their products with the weights would be rounded once more than the model's own numbers."""
    module = settled(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    for name in part or [""]:
        module.get_submodule(name).bfloat16()
    assert folded(tap(module_of(symbolic_trace(module)), [], CPU, frozen=True)) == 0


def module_of(traced: GraphModule) -> GraphModule:
    """With outputs as a compressed model's graph gives them, in a list."""
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    output.args = ((output.args[0],),)
    traced.recompile()
    return traced
