"""Models of odd kinds, and what is no model."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.abuses.subjects import model


class Doing(nn.Module):
    """The tiny model, and something odd done with it or with what it gives."""

    def __init__(self, do: Callable[["Doing", Tensor], Any], made: nn.Module | None = None):
        super().__init__()
        self.net, self._do = made or model(), do

    def forward(self, x: Tensor) -> Any:
        return self._do(self, x)


class Two(Doing):
    """Takes two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.net(x + y)


class Uncopied(Doing):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no copies\nof this")


class Blank(nn.Module):
    """Has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()


def _failing(net: Doing, x: Tensor) -> Any:
    raise ZeroDivisionError("odd\nmodel")


def _failing_hook(net: nn.Module, args: Any) -> Any:
    raise ZeroDivisionError("odd\nhook")


def _branching(net: Doing, x: Tensor) -> Any:
    return net.net(x) if x.sum() > 0 else -net.net(x)


def _in_place(net: Doing, x: Tensor) -> Any:
    return net.net(x.mul_(2))


def _global(net: Doing, x: Tensor) -> Any:
    torch.manual_seed(3)
    return net.net(x)


def _with(change: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    """The tiny model, changed in place by what is given."""

    def make() -> nn.Module:
        made = model()
        with torch.no_grad():
            change(made)
        return made

    return make


def _give_gradients(made: nn.Module) -> None:
    for parameter in made.parameters():
        parameter.grad = parameter.clone()


def _frozen_mode() -> nn.Module:
    with torch.inference_mode():
        return model()


def _shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _quantized() -> nn.Module:
    made: nn.Module = torch.ao.quantization.quantize_dynamic(model(), {nn.Linear})
    return made


MODELS: dict[str, Callable[[], Any]] = {
    "a module class": lambda: nn.Linear,
    "an operator": lambda: torch.relu,
    "its weights": lambda: model().state_dict(),
    "a list": lambda: [model()],
    "empty": lambda: nn.Sequential(),
    "no parameters": lambda: nn.ReLU(),
    "no forward": Blank,
    "a ModuleList": lambda: nn.ModuleList([model()]),
    "forward fails": lambda: Doing(_failing),
    "returns None": lambda: Doing(lambda net, x: None),
    "returns a number": lambda: Doing(lambda net, x: 3),
    "returns text": lambda: Doing(lambda net, x: "odd"),
    "returns nothing": lambda: Doing(lambda net, x: ()),
    "returns an empty tensor": lambda: Doing(lambda net, x: net.net(x)[:, :0]),
    "returns one number": lambda: Doing(lambda net, x: net.net(x).mean()),
    "returns its input": lambda: Doing(lambda net, x: x),
    "returns integers": lambda: Doing(lambda net, x: net.net(x).argmax(1)),
    "returns bools": lambda: Doing(lambda net, x: net.net(x) > 0),
    "returns complex": lambda: Doing(lambda net, x: torch.complex(net.net(x), net.net(x))),
    "returns text and scores": lambda: Doing(lambda net, x: {"a": net.net(x), "b": "odd"}),
    "returns numpy": lambda: Doing(lambda net, x: net.net(x).detach().numpy()),
    "returns a generator": lambda: Doing(lambda net, x: (y for y in net.net(x))),
    "mixes examples": lambda: Doing(lambda net, x: net.net(x - x.mean(0))),
    "branches on data": lambda: Doing(_branching),
    "changes its input": lambda: Doing(_in_place),
    "seeds torch": lambda: Doing(_global),
    "random": lambda: Doing(lambda net, x: net.net(x + torch.randn_like(x))),
    "uses numpy": lambda: Doing(lambda net, x: net.net(torch.from_numpy(x.numpy() * 2))),
    "two inputs": lambda: Two(lambda net, x: x),
    "cannot be copied": lambda: Uncopied(lambda net, x: net.net(x)),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4)),
    "meta": lambda: model().to("meta"),
    "half meta": _with(lambda m: m.get_submodule("2").to("meta")),
    "complex": lambda: model().to(torch.complex64),
    "float16": lambda: model().half(),
    "float64": lambda: model().double(),
    "two dtypes": _with(lambda m: m.get_submodule("2").double()),
    "quantized": _quantized,
    "NaN weights": _with(lambda m: m.get_parameter("2.weight").fill_(float("nan"))),
    "infinite bias": _with(lambda m: m.get_parameter("2.bias").fill_(float("inf"))),
    "zero weights": _with(lambda m: [p.zero_() for p in m.parameters()]),
    "huge weights": _with(lambda m: m.get_parameter("2.weight").fill_(1e38)),
    "frozen": _with(lambda m: m.requires_grad_(False)),
    "made for inference": _frozen_mode,
    "no channels": lambda: nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 4)),
    "one layer": lambda: nn.Linear(6, 4),
    "one channel": lambda: nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 1)),
    "shared": _shared,
    "scripted": lambda: torch.jit.script(model()),
    "traced": lambda: torch.jit.trace(model().eval(), torch.zeros(2, 6)),
    "fx traced": lambda: torch.fx.symbolic_trace(model()),
    "compiled": lambda: torch.compile(model(), backend="eager"),
    "data parallel": lambda: nn.DataParallel(model()),
    "weight norm": _with(lambda m: nn.utils.parametrizations.weight_norm(m.get_submodule("2"))),
    "old weight norm": _with(lambda m: nn.utils.weight_norm(m.get_submodule("2"))),
    "spectral norm": _with(lambda m: nn.utils.parametrizations.spectral_norm(m.get_submodule("2"))),
    "hooked": _with(lambda m: m.register_forward_hook(lambda *a: None)),
    "hook that fails": _with(lambda m: m.register_forward_pre_hook(_failing_hook)),
    "hooked gradients": _with(lambda m: m.register_full_backward_hook(lambda *a: None)),
    "with gradients": _with(_give_gradients),
    "dropout": lambda: nn.Sequential(model(), nn.Dropout(0.5)),
    "mixed modes": _with(lambda m: m.get_submodule("2").eval()),
    "a keyword's name": lambda: nn.ModuleDict({"class": model()}),
    "a recurrent net": lambda: nn.Sequential(nn.LSTM(6, 8)),
    "compressed": lambda: copy.deepcopy(_compressed()),
}


def _compressed() -> nn.Module:
    from benchmarks.abuses.subjects import small

    return small()
