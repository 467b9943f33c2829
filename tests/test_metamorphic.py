"""What must not matter does not: how examples are batched, how channels are ordered, through what
a plan or a result went. No expected values: one way is compared with another.
"""

import copy
import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from tests.nets import Net, images, tiny

COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))


class Residual(nn.Module):
    """A residual block between convolutions, with two branches joined, on (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.left, self.right = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.cat([x + torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def encoder() -> nn.Module:
    """An encoder layer on the rows of (N, 3, 8, 8)."""
    layer = nn.TransformerEncoderLayer(24, 2, 32, dropout=0.0, batch_first=True)
    return Net(
        lambda net, x: net.head(net.block(x.transpose(1, 2).flatten(2)).mean(1)),
        block=layer,
        head=nn.Linear(24, 4),
    )


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "tiny": tiny,
    "residual": Residual,
    "encoder": encoder,
}


def net_of(name: str) -> nn.Module:
    """Always with the same weights; moments of the normalization as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MAKERS[name]()
        with torch.no_grad():
            net.train()(images(256, seed=9))
    return net.eval()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compress(net: nn.Module, data: Any, **options: Any) -> GraphModule:
    chosen = {"flops": 0.6, "method": "uniform", "progress": False, **options}
    return fxprune.compress(net, data, **chosen)


@cache
def small_of(name: str, method: str) -> GraphModule:
    """Made once; no test changes it."""
    return compress(net_of(name), DATA, method=method)


@torch.no_grad()
def close(one: nn.Module, other: nn.Module, inputs: Tensor, rounding: float = 1e-4) -> None:
    """The same outputs up to rounding, relative to their size."""
    expected = one(inputs)
    torch.testing.assert_close(other(inputs), expected, rtol=0, atol=rounding * scale(expected))


def scale(outputs: Tensor) -> float:
    return float(outputs.abs().max())


every_net = pytest.mark.parametrize(
    "name", ["tiny", "residual", pytest.param("encoder", marks=pytest.mark.slow)]
)
DATA = images(96)


@every_net
def test_a_batch_through_the_result_is_its_examples_one_by_one(name: str) -> None:
    small = small_of(name, "magnitude")
    with torch.no_grad():
        whole = small(DATA)
        alone = torch.cat([small(row) for row in DATA.split(1)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5 * scale(whole))


CUTS: tuple[Any, ...] = (1, [50, 1, 45])
"""Sizes that the calibration examples are batched in."""


@pytest.mark.slow
@every_net
def test_without_sampling_the_batching_of_examples_does_not_matter(name: str) -> None:
    net = net_of(name)
    whole = compress(net, [DATA], method="magnitude")
    for sizes in CUTS:
        cut = compress(net, list(DATA.split(sizes)), method="magnitude")
        assert fxprune.plan_of(cut) == fxprune.plan_of(whole)
        for key, tensor in cut.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[key]), key
        a, b = (fxprune.report(m).agreement for m in (cut, whole))
        assert a is not None
        assert b is not None
        assert (a.rate, a.examples) == (b.rate, b.examples)
        assert a.error == pytest.approx(b.error, rel=1e-4)


@pytest.mark.slow
@every_net
def test_with_sampling_the_batching_of_examples_only_draws_anew(name: str) -> None:
    """Probes at the output and positions of images are drawn batch by batch, so that weights and
    channels that are as good as others may differ; what is held out and how good it is do not.
    """
    net = net_of(name)
    whole = compress(net, [DATA])
    for sizes in CUTS:
        cut = compress(net, list(DATA.split(sizes)))
        assert fxprune.plan_of(cut).widths == fxprune.plan_of(whole).widths
        a, b = (fxprune.report(m).agreement for m in (cut, whole))
        assert a is not None
        assert b is not None
        assert a.examples == b.examples
        assert a.error < 2 * b.error + 1e-6


def permute(layers: tuple[list[Tensor], list[Tensor]], order: Tensor) -> None:
    """The hidden channels in another order: rows of what makes them, columns of what reads them."""
    made, read = layers
    with torch.no_grad():
        for tensor in made:
            tensor.copy_(tensor[order].clone())
        for tensor in read:
            tensor.copy_(tensor[:, order].clone())


def permuted(name: str) -> nn.Module:
    """The same function with hidden channels in another order."""
    net = copy.deepcopy(net_of(name))
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    hidden: dict[str, list[tuple[list[str], list[str]]]] = {
        "tiny": [
            (["first.weight", "first.bias", *norm], ["second.weight"]),
            (["second.weight", "second.bias"], ["hidden.weight"]),
            (["hidden.weight", "hidden.bias"], ["head.weight"]),
        ],
        "residual": [
            (
                ["stem.weight", "stem.bias", *norm, "left.weight", "left.bias"],
                ["left.weight", "right.weight"],
            ),
        ],
        "encoder": [(["block.linear1.weight", "block.linear1.bias"], ["block.linear2.weight"])],
    }
    generator = torch.Generator().manual_seed(3)
    for made, read in hidden[name]:
        order = torch.randperm(len(state[made[0]]), generator=generator)
        permute(([state[n] for n in made], [state[n] for n in read]), order)
        if name == "residual":  # the head reads the joined branches: only the first is permuted
            whole = torch.cat([order, torch.arange(12, 24)])
            permute(([], [state["head.weight"]]), whole)
    return net


@pytest.mark.parametrize("method", ["uniform", "channels", "magnitude"])
@every_net
def test_the_order_of_channels_does_not_matter(name: str, method: str) -> None:
    net, other = net_of(name), permuted(name)
    close(net, other, DATA)
    first, second = small_of(name, method), compress(other, DATA, method=method)
    assert fxprune.plan_of(first).widths == fxprune.plan_of(second).widths
    close(first, second, images(32, seed=5), rounding=2e-3)
    assert any(
        a != b
        for a, b in zip(
            fxprune.plan_of(first).kept.values(), fxprune.plan_of(second).kept.values(), strict=True
        )
    )


@pytest.mark.parametrize("method", ["uniform", "channels", "auto", "paper", "magnitude"])
@every_net
def test_a_whole_budget_changes_no_output(name: str, method: str) -> None:
    net = net_of(name)
    close(net, compress(net, DATA, flops=1.0, method=method), images(32, seed=5), rounding=1e-3)


@every_net
def test_what_keeps_everything_is_the_original(name: str) -> None:
    net = net_of(name)
    small = compress(net, DATA, flops=1.0, keep={"*": 1.0}, method="magnitude")
    assert fxprune.plan_of(small).kept == {}
    close(net, small, images(32, seed=5), rounding=1e-6)
    state = net.state_dict()
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@every_net
def test_a_plan_that_went_through_json_makes_the_same_model(name: str) -> None:
    net = net_of(name)
    small = small_of(name, "uniform")
    plan = fxprune.plan_of(small)
    read = fxprune.Plan.from_json(plan.to_json())
    assert read == plan
    for made in (plan, read):
        again = fxprune.apply(net, made, DATA, progress=False)
        assert fxprune.plan_of(again) == plan
        for key, tensor in again.state_dict().items():
            assert torch.equal(tensor, small.state_dict()[key]), key


@every_net
def test_a_result_of_every_way_of_running_is_the_same(name: str) -> None:
    small = small_of(name, "magnitude")
    inputs = images(5, seed=5)
    batch = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        again = torch.export.export(small, (inputs[:2],), dynamic_shapes=batch).module()
        traced: Callable[..., Any] = torch.compile(small, backend="aot_eager")
        expected = small(inputs)
        for run in (again, traced):
            torch.testing.assert_close(run(inputs), expected, rtol=1e-5, atol=1e-5)
    close(fxprune.masked(net_of(name), small), small, inputs)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on a CPU")
@every_net
def test_compiled_is_eager(name: str) -> None:
    small = small_of(name, "magnitude")
    inputs = images(5, seed=5)
    with torch.no_grad():
        compiled: Callable[..., Any] = torch.compile(small)
        torch.testing.assert_close(compiled(inputs), small(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("onnxruntime", "onnxscript")),
    reason="onnxruntime or onnxscript is not installed",
)
@every_net
def test_onnx_is_eager(name: str, tmp_path: Path) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    small = small_of(name, "magnitude")
    inputs, path = images(5, seed=5), tmp_path / "small.onnx"
    with torch.no_grad():
        expected = small(inputs)
    torch.onnx.export(small, (inputs,), path, dynamo=True, input_names=["images"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
