"""What compress returns can be pickled and copied, and stays itself."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

import fxprune
from fxprune.errors import StorageError
from fxprune.handover.module import CompressedModule
from tests.handover.results import NAMES, equal, made
from tests.nets import images, loader, tiny


def through_torch(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "oldest pickle": lambda m: pickle.loads(pickle.dumps(m, protocol=2)),
    "torch.save": through_torch,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back_is_the_same_module(name: str, way: str) -> None:
    small, args, kwargs = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = WAYS[way](small)
    with torch.no_grad():
        equal(again(*args, **kwargs), small(*args, **kwargs))
    assert fxprune.report(again) == fxprune.report(small)
    assert fxprune.plan_of(again) == fxprune.plan_of(small)
    assert str(again.graph) == str(small.graph)
    assert again.code == small.code
    assert list(again.state_dict()) == list(small.state_dict())
    assert [n for n, _ in again.named_buffers()] == [n for n, _ in small.named_buffers()]
    assert [type(m) for m in again.modules()][1:] == [type(m) for m in small.modules()][1:]
    assert again._get_name() == small._get_name()
    own = {p.data_ptr() for p in small.parameters()}
    assert ({p.data_ptr() for p in again.parameters()} == own) is (way == "copy")


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back_traces_exports_and_compiles(name: str) -> None:
    small, args, kwargs = made(name)
    again = WAYS["pickle"](small)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = small(*args, **kwargs)
        program = torch.export.export(again, args, kwargs)
        equal(program.module()(*args, **kwargs), expected)
        whole: Callable[..., Any] = torch.compile(again, backend="eager")
        equal(whole(*args, **kwargs), expected)
        fxprune.analyze(again, kwargs or args)


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_modes_dtypes_and_gradients_come_along(name: str) -> None:
    small = copy.deepcopy(made(name)[0]).train().double()
    next(iter(small.parameters())).requires_grad_(False)
    for way in ("pickle", "torch.save", "deepcopy"):
        again = WAYS[way](small)
        assert all(m.training for m in again.modules())
        assert {p.dtype for p in again.parameters()} == {torch.float64}
        grads = [p.requires_grad for p in small.parameters()]
        assert [p.requires_grad for p in again.parameters()] == grads
        args = tuple(a.double() for a in made(name)[1])
        again.eval()(*args).sum().backward()
        assert not any(m.training for m in again.modules())


def test_shared_tensors_stay_shared() -> None:
    small = made("siamese")[0]
    pair = pickle.loads(pickle.dumps([small, small, small.get_parameter("branch.0.weight")]))
    assert pair[0] is pair[1]
    assert pair[0].get_parameter("branch.0.weight") is pair[2]


def test_hooks_that_can_be_pickled_come_along() -> None:
    small = copy.deepcopy(made("cnn")[0])
    small.register_forward_hook(doubled)
    for again in (copy.deepcopy(small), WAYS["pickle"](small)):
        assert torch.equal(again(images(2)), small(images(2)))


class Doubling(_PyTreeCodeGen):
    """Writes a forward that returns its output twice over."""

    def __init__(self, info: _PyTreeInfo, times: int):
        super().__init__(info)
        self.times = times

    def generate_output(self, output_args: Any, **options: Any) -> str:
        text: str = super().generate_output(output_args, **options)
        return f"{text} * {self.times}"


@pytest.mark.parametrize("way", WAYS)
def test_a_forward_that_is_written_otherwise_stays_so(way: str) -> None:
    small = copy.deepcopy(made("cnn")[0])
    expected = 2 * small(images(2))
    codegen: Any = small.graph._codegen
    small.graph.set_codegen(Doubling(codegen.pytree_info, 2))
    small.recompile()
    assert torch.equal(WAYS[way](small)(images(2)), expected)


def doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def test_results_of_every_verb_can_be_pickled(tmp_path: Path) -> None:
    net, data = tiny(), loader()
    small = made("cnn")[0]
    fxprune.save(small, tmp_path / "small.safetensors")
    curve = fxprune.sweep(net, data, budgets=(0.8, 0.5), method="magnitude", progress=False)
    inner = nn.Sequential(tiny(), nn.ReLU()).eval()
    results: list[nn.Module] = [
        fxprune.load(tmp_path / "small.safetensors"),
        fxprune.apply(net, fxprune.plan_of(small), data, progress=False),
        fxprune.factorize(net, data, params=0.9, method="svd", progress=False),
        fxprune.compress(inner, data, targets=["0"], flops=0.6, method="magnitude", progress=False),
        *curve.values(),
    ]
    for result in results:
        again = WAYS["torch.save"](result)
        assert torch.equal(again(images(3)), result(images(3)))
        assert isinstance(result, GraphModule) or result is results[3]
    fxprune.save(WAYS["pickle"](small), tmp_path / "again.safetensors")
    again = fxprune.load(tmp_path / "again.safetensors")
    assert torch.equal(again(images(3)), small(images(3)))


def test_an_operator_that_is_not_registered_is_named() -> None:
    state = made("cnn")[0].__getstate__()
    text = pickle.dumps(state).replace(b"aten.relu.default", b"aten.rela.default")
    with pytest.raises(StorageError, match="aten.rela"):
        CompressedModule.__new__(CompressedModule).__setstate__(pickle.loads(text))
