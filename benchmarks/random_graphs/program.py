"""A network written as Python source, one statement at a time, with the shape of every value."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

Kind = Literal["map", "tokens", "flat"]
"""How a value lies: (N, C, *sizes), (N, T, C) or (N, C)."""

ACTIVATIONS = (
    "F.relu F.gelu F.silu F.elu F.mish F.hardswish F.leaky_relu F.softplus F.selu F.celu "
    "F.relu6 F.hardsigmoid F.softsign F.tanhshrink F.logsigmoid torch.tanh torch.sigmoid torch.sin "
    "torch.cos torch.atan torch.abs torch.square torch.neg torch.erf torch.exp"
).split()


@dataclass(frozen=True)
class Value:
    """A variable of the forward.

    Attributes:
        name: the variable.
        kind: how it lies.
        shape: without the batch.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return self.shape[-1] if self.kind == "tokens" else self.shape[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that are not channels."""
        return self.shape[:-1] if self.kind == "tokens" else self.shape[1:]

    @property
    def rank(self) -> int:
        """Spatial dimensions of a map."""
        return len(self.shape) - 1

    def vector(self) -> str:
        """Shape of one number per channel, to be broadcast against it."""
        return ", ".join(["1", str(self.channels), *["1"] * self.rank])


@dataclass
class Program:
    """What has been written so far.

    Attributes:
        draw: of the construct that is being written.
        widest: most channels that it makes at will.
        pool: every value that a construct has given.
        layers, lines: statements of `__init__` and of `forward`.
    """

    draw: random.Random = field(default_factory=random.Random)
    widest: int = 8
    pool: list[Value] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def width(self, multiple: int = 1) -> int:
        """A number of channels."""
        return multiple * self.draw.randint(1 if multiple > 1 else 2, max(2, self.widest))

    def some(self, *choices: Any) -> Any:
        """One of them."""
        return self.draw.choice(choices)

    def layer(self, text: str) -> str:
        """A module of the network; how it is read."""
        return self._own(f"nn.{text}")

    def parameter(self, *shape: int) -> str:
        """A parameter of the network's own."""
        return self._own(f"nn.Parameter(torch.zeros{shape})")

    def buffer(self, text: str, ending: str = "") -> str:
        """A buffer from an expression; its name may end so that it is filled as such ones are."""
        name = f"b{len(self.layers)}{ending}"
        self.layers.append(f"self.register_buffer('{name}', {text})")
        return f"self.{name}"

    def _own(self, text: str) -> str:
        name = f"m{len(self.layers)}"
        self.layers.append(f"self.{name} = {text}")
        return f"self.{name}"

    def say(self, text: str) -> str:
        """A statement; the variable it makes."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def let(self, text: str, kind: Kind, *shape: int) -> Value:
        """A statement that makes a value."""
        return Value(self.say(text), kind, shape)

    def like(self, text: str, x: Value) -> Value:
        """A statement that makes a value of the kind and shape of another."""
        return self.let(text, x.kind, *x.shape)

    def resized(self, text: str, x: Value, channels: int) -> Value:
        """A statement that makes a value like another one, but with so many channels."""
        sizes = x.sizes
        shape = (*sizes, channels) if x.kind == "tokens" else (channels, *sizes)
        return self.let(text, x.kind, *shape)

    def project(self, x: Value, channels: int, kernel: int = 1, **options: Any) -> Value:
        """A convolution that keeps the size, or a linear layer over the channels."""
        bias = options.pop("bias", self.draw.random() < 0.7)
        if x.kind != "map":
            name = self.layer(f"Linear({x.channels}, {channels}, bias={bias})")
        else:
            given = "".join(f", {key}={value}" for key, value in options.items())
            name = self.layer(
                f"Conv{x.rank}d({x.channels}, {channels}, {kernel}, padding={kernel // 2}, "
                f"bias={bias}{given})"
            )
        return self.resized(f"{name}({x})", x, channels)

    def activate(self, x: Value) -> Value:
        """A common activation."""
        return self.like(f"{self.draw.choice(ACTIVATIONS[:8])}({x})", x)

    def beside(self, x: Value, fits: Callable[[Value], bool] | None = None) -> Value:
        """Another value of this kind and these sizes; a new branch of `x` where there is none."""
        others = [
            v
            for v in self.pool
            if v.kind == x.kind and v.sizes == x.sizes and v != x and (fits is None or fits(v))
        ]
        return self.draw.choice(others) if others else self.activate(self.project(x, self.width()))

    def matching(self, x: Value) -> Value:
        """Another value of this very shape, made by a projection where there is none."""
        other = self.beside(x)
        return other if other.shape == x.shape else self.project(other, x.channels)

    def operators(self) -> int:
        """About how many operators have been written."""
        return sum(max(line.count("("), 1) for line in self.lines)

    def source(self, outputs: str) -> str:
        """The network as a class `Net`."""
        layers = "".join(f"        {line}\n" for line in self.layers)
        lines = "".join(f"        {line}\n" for line in self.lines)
        return (
            "class Net(nn.Module):\n"
            f"    def __init__(self):\n        super().__init__()\n{layers}\n"
            f"    def forward(self, {', '.join(self.inputs)}):\n{lines}        return {outputs}\n"
        )


def fill(net: nn.Module, seed: int) -> nn.Module:
    """Give every tensor of a network values behind which no error hides; in eval mode."""
    torch.manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        if tensor.dim() > 1:
            tensor.data.normal_().mul_(1.2 / math.sqrt(max(tensor[0].numel(), 1)))
        elif name.endswith(("weight", "running_var")):
            tensor.data.uniform_(0.7, 1.3)
        else:
            tensor.data.normal_(std=0.3)
    return net.eval()


def build(source: str, seed: int, dtype: torch.dtype) -> nn.Module:
    """The network that a source describes, with random values."""
    names: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, "math": math}
    exec(source, names)
    net: nn.Module = names["Net"]()
    return fill(net, seed).to(dtype)
