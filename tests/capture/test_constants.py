"""Arguments that are no tensors: checked where they were frozen, left out where they may be."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import ArgumentError, CalibrationError
from fxprune.graph.arguments import Argument, check_argument, literal


class Scaled(nn.Module):
    """A number, a text and a mask that change what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(
        self, x: Tensor, scale: float = 1.0, mode: str = "a", mask: Tensor | None = None
    ) -> Tensor:
        y = self.first(x).relu() * scale
        if mode == "b":
            y = -y
        result: Tensor = self.second(y)
        return result if mask is None else result * mask


def scaled() -> nn.Module:
    torch.manual_seed(0)
    return Scaled().eval()


def compress(**given: Any) -> Any:
    batches = [{"x": torch.randn(16, 8), **given} for _ in range(4)]
    return fxprune.compress(scaled(), batches, flops=0.6, method="magnitude", progress=False)


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def check_frozen(small: Any) -> None:
    assert torch.equal(small(X, scale=2.0, mode="b"), small(X, 2.0, "b"))
    for other in ({"scale": 3.0, "mode": "b"}, {"scale": torch.tensor(2.0), "mode": "b"}):
        with pytest.raises(ArgumentError, match=r"^scale=.* compressed for scale=2\.0.* again"):
            small(X, **other)
    with pytest.raises(ArgumentError, match=r"^mode='a': this model was compressed for mode='b'"):
        small(X, scale=2.0)
    with pytest.raises(ArgumentError, match=r"^scale=1\.0: this model was compressed for scale=2"):
        small(X, mode="b")
    with pytest.raises(ArgumentError, match=r"^mask=a tensor \(1,\): .* for mask=None"):
        small(X, 2.0, "b", torch.ones(1))


def test_another_constant_is_an_error_that_names_it(tmp_path: Path) -> None:
    small = compress(scale=2.0, mode="b")
    full = fxprune.masked(scaled(), small)
    torch.testing.assert_close(small(X, 2.0, "b"), full(X, 2.0, "b"))
    assert [n for n in fxprune.report(small).notes if "part of the result" in n] == [
        "scale=2.0 is a part of the result: calls with another value are an error",
        "mode='b' is a part of the result: calls with another value are an error",
    ]
    check_frozen(small)
    check_frozen(copy.deepcopy(small))
    check_frozen(pickle.loads(pickle.dumps(small)))
    fxprune.save(small, tmp_path / "small.safetensors")
    check_frozen(fxprune.load(tmp_path / "small.safetensors"))
    compiled: Any = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, 2.0, "b"), small(X, 2.0, "b"))


def test_defaults_may_be_left_out_or_given() -> None:
    for small in (compress(), compress(scale=1.0)):
        expected = small(X)
        for call in (small(X, 1.0), small(X, scale=1.0, mode="a"), small(x=X, mask=None)):
            assert torch.equal(call, expected)
        with pytest.raises(ArgumentError, match=r"^scale=3\.0"):
            small(X, scale=3.0)
        with pytest.raises(ArgumentError, match="^mode='b'"):
            small(X, mode="b")
        exported = torch.export.export(small, (X,)).module()
        assert torch.equal(exported(X), expected)


def test_a_tensor_that_was_given_must_be_given() -> None:
    small = compress(mask=torch.ones(16, 4))
    assert small(X, mask=torch.ones(5, 4)).shape == (5, 4)
    with pytest.raises(ArgumentError, match="^mask=None: .* compressed for a tensor"):
        small(X)


def test_batches_with_different_constants_are_an_error() -> None:
    batches = [{"x": torch.randn(16, 8), "scale": scale} for scale in (2.0, 2.0, 3.0)]
    with pytest.raises(CalibrationError, match=r"from example 32 has scale=3\.0, the first one"):
        fxprune.compress(scaled(), batches, flops=0.6, progress=False)


@pytest.mark.parametrize(
    "value", [None, 1, -2.5, float("inf"), 'it\'s "quoted"\n', (1, [2.0, {"a": None}]), (...,)]
)
def test_literals_evaluate_to_themselves(value: Any) -> None:
    assert eval(literal(value)) == value


def test_only_constants_are_literals() -> None:
    with pytest.raises(TypeError, match="Tensor cannot be written"):
        Argument("x", False, torch.ones(1), None)
    with pytest.raises(ArgumentError, match="holds 2 values"):
        check_argument("x", (1, 2), (1,))


def test_numbers_beside_tensors_in_one_argument_are_checked() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, pair: tuple[Tensor, float]) -> Tensor:
            result: Tensor = self.net(pair[0]) * pair[1]
            return result

    torch.manual_seed(0)
    data = [{"pair": (torch.randn(16, 8), 2.0)} for _ in range(4)]
    small: Any = fxprune.compress(
        Model().eval(), data, flops=0.6, method="magnitude", progress=False
    )
    small((X, 2.0))
    with pytest.raises(ArgumentError, match=r"^pair=3.0: this model was compressed for pair=2\.0"):
        small((X, 3.0))
    with pytest.raises(ArgumentError, match="for a tensor there"):
        small((1.0, 2.0))


def test_defaults_that_cannot_be_written_must_be_given() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x: Tensor, shift: Tensor = torch.ones(4), scale: float = 2.0) -> Tensor:  # noqa: B008
            result: Tensor = self.net(x) * scale + shift
            return result

    torch.manual_seed(0)
    data = [{"x": torch.randn(16, 8), "shift": torch.zeros(16, 4)} for _ in range(4)]
    small: Any = fxprune.compress(
        Model().eval(), data, flops=0.6, method="magnitude", progress=False
    )
    rows = torch.ones(5, 4)
    assert torch.equal(small(X, rows), small(X, shift=rows, scale=2.0))
    with pytest.raises(TypeError, match="shift"):
        small(X)


def test_arguments_by_any_name_are_checked_too() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, **inputs: Any) -> Tensor:
            result: Tensor = self.net(inputs["x"]) * inputs["scale"]
            return result

    torch.manual_seed(0)
    data = [{"x": torch.randn(16, 8), "scale": 2.0} for _ in range(4)]
    small: Any = fxprune.compress(
        Model().eval(), data, flops=0.6, method="magnitude", progress=False
    )
    assert small(x=X, scale=2.0).shape == (5, 4)
    assert not any("batch size" in note for note in fxprune.report(small).notes)
    with pytest.raises(ArgumentError, match=r"^scale=3\.0: this model was compressed for scale=2"):
        small(x=X, scale=3.0)
