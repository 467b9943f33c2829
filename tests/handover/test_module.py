"""What compress returns can be pickled, copied and sent to other processes, and stays itself."""

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import fxprune
from fxprune.errors import StorageError
from fxprune.handover.module import CompressedModule
from tests.nets import Net, images, loader, tiny


class Pair(NamedTuple):
    """A named output."""

    scores: Tensor
    hidden: Tensor


@dataclass
class Found:
    """A dataclass output."""

    logits: Tensor
    hidden: Tensor


torch.export.register_dataclass(Found)


class Shaped(nn.Module):
    """Nested and keyword inputs; the output is of the kind asked for."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.register_buffer("shift", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor, pair: dict[str, Tensor], *, mask: Tensor) -> Any:
        hidden = torch.relu(self.first(x + pair["a"] * pair["b"]))
        hidden = torch.relu(self.second(hidden)) * mask
        scores = self.head(hidden) + self.shift
        makers: dict[str, Callable[[], Any]] = {
            "dict": lambda: {"scores": scores, "rest": [hidden, (scores * 2,)]},
            "ordered": lambda: OrderedDict(b=scores, a=hidden),
            "named": lambda: Pair(scores, hidden),
            "dataclass": lambda: Found(scores, hidden),
        }
        return makers[self.kind]()


def shaped_batch(count: int) -> dict[str, Any]:
    made = torch.randn(4, count, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(count, 1)
    return {"x": made[0], "pair": {"a": made[1], "b": made[2]}, "mask": mask}


class Siamese(nn.Module):
    """Two inputs through one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.branch(a) - self.branch(b)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    head = nn.Linear(16, 4)
    return Net(lambda net, x: net.head(net.block(x).mean(1)), block=layer, head=head)  # type: ignore[operator]


Case = tuple[GraphModule, tuple[Any, ...], dict[str, Any]]


@lru_cache
def made(name: str) -> Case:
    """A compressed model, and positional and keyword inputs for it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 6, generator=generator)
    tokens = torch.randn(64, 5, 16, generator=generator)
    nets: dict[str, tuple[Callable[[], nn.Module], Any, tuple[Any, ...], dict[str, Any]]] = {
        "cnn": (tiny, loader(), (images(4),), {}),
        "siamese": (Siamese, [{"a": rows, "b": rows.flip(0)}], (), {"a": rows, "b": rows.flip(0)}),
        "encoder": (encoder, [tokens], (tokens[:7],), {}),
    }
    for kind in ("dict", "ordered", "named", "dataclass"):
        nets[kind] = (lambda k=kind: Shaped(k), [shaped_batch(64)], (), shaped_batch(5))  # type: ignore[misc]
    make, data, args, kwargs = nets[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = make().eval()
        small = fxprune.compress(net, data, flops=0.6, method="uniform", progress=False)
    return small, args, kwargs


NAMES = ("cnn", "dict", "ordered", "named", "dataclass", "siamese", "encoder")


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


def equal(a: Any, b: Any) -> None:
    """Bit-identical, and of the same kinds all the way down."""
    leaves_a, spec_a = pytree.tree_flatten(a)
    leaves_b, spec_b = pytree.tree_flatten(b)
    assert spec_a == spec_b
    assert type(a) is type(b)
    for x, y in zip(leaves_a, leaves_b, strict=True):
        assert torch.equal(x, y)


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
        equal(torch.compile(again, backend="eager")(*args, **kwargs), expected)
        fxprune.analyze(again, kwargs or args)


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_modes_dtypes_and_gradients_come_along(name: str) -> None:
    small = copy.deepcopy(made(name)[0]).train().double()
    next(small.parameters()).requires_grad_(False)
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


FRESH = """
import sys, torch, fxprune
assert not any(name.startswith("tests") for name in sys.modules)
small = torch.load("small.pt", weights_only=False)
args, kwargs = torch.load("inputs.pt", weights_only=False)
torch.save(small(*args, **kwargs), "out.pt")
print(fxprune.report(small).method, len(fxprune.plan_of(small).kept))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "dict", "siamese", "encoder"])
def test_a_fresh_process_needs_no_source_of_the_model(name: str, tmp_path: Path) -> None:
    small, args, kwargs = made(name)
    torch.save(small, tmp_path / "small.pt")
    torch.save((args, kwargs), tmp_path / "inputs.pt")
    run_alone(FRESH, tmp_path, "uniform", str(len(fxprune.plan_of(small).kept)))
    with torch.no_grad():
        equal(torch.load(tmp_path / "out.pt", weights_only=False), small(*args, **kwargs))


def run_alone(script: str, folder: Path, *printed: str) -> None:
    """A script in a process in which fxprune can be imported, and none of its tests."""
    (folder / "packages").mkdir()
    root = Path(fxprune.__file__).resolve().parent.parent
    for part in ("fxprune", "passes"):
        (folder / "packages" / part).symlink_to(root / part)
    environment = os.environ | {
        "PYTHONPATH": str(folder / "packages"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(printed)


OTHERS = '''
import sys
import torch
from torch import multiprocessing


class Scored(Dataset):
    """Rows as a model scores them, in the worker."""

    def __init__(self, model, rows):
        self.model, self.rows = model, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        with torch.no_grad():
            return self.model(self.rows[at : at + 1])[0]


def score(rank, model, rows, out):
    with torch.no_grad():
        out.copy_(model(rows))


if __name__ == "__main__":
    small = torch.load("small.pt", weights_only=False)
    rows = torch.load("inputs.pt")[0][0]
    with torch.no_grad():
        expected = small(rows)
    workers = DataLoader(
        Scored(small, rows), batch_size=len(rows), num_workers=1, multiprocessing_context="spawn"
    )
    (found,) = workers
    torch.testing.assert_close(found, expected)
    small.share_memory()
    out = torch.zeros_like(expected).share_memory_()
    multiprocessing.spawn(score, (small, rows, out), nprocs=1)
    torch.testing.assert_close(out, expected)
    print("scored")
'''


@pytest.mark.slow
def test_data_workers_and_other_processes_take_it(tmp_path: Path) -> None:
    small, args, kwargs = made("cnn")
    torch.save(small, tmp_path / "small.pt")
    torch.save((args, kwargs), tmp_path / "inputs.pt")
    (tmp_path / "others.py").write_text(OTHERS)
    script = "import runpy; runpy.run_path('others.py', run_name='__main__')"
    run_alone(script, tmp_path, "scored")
