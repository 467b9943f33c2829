"""Calibration batches: what a loader may yield, and how it becomes the model's arguments."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.errors import CalibrationError

OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of arguments that stand for any number of them."""
LABEL_KEYS = frozenset({"label", "labels", "target", "targets"})


@dataclass(frozen=True)
class Batch:
    """One call of the model.

    Attributes:
        args, kwargs: positional and keyword arguments.
        size: number of examples.
        padding: how many of these, the last ones, are copies of others, to fill a batch of fixed
            size.
        real: (size, length) bool, which tokens are no padding; None where nothing says so.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    padding: int = 0
    real: Tensor | None = None

    @property
    def own(self) -> int:
        """Number of examples that are no copies."""
        return self.size - self.padding

    @property
    def is_plain(self) -> bool:
        """Whether every argument is a tensor: no nest, no number."""
        return all(isinstance(value, Tensor) for value in (*self.args, *self.kwargs.values()))

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in pytree order."""
        return [t for t in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same call with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, self.kwargs))
        return replace(make_batch(args, kwargs), padding=self.padding, real=self.real)

    def filled(self, size: int) -> "Batch":
        """As many examples as that, the last ones copies where there are fewer."""
        if self.size >= size:
            return self
        return replace(self.take(torch.arange(size) % self.size), padding=size - self.own)

    def cut_outputs(self, output: Any) -> Any:
        """What a model returned for the batch, without the rows of copies."""
        if not self.padding:
            return output
        return pytree.tree_map_only(
            Tensor, lambda t: t[: self.own] if t.dim() and len(t) == self.size else t, output
        )

    def channels_last(self) -> "Batch":
        """The same call with images and volumes laid out as CPU and GPU convolutions read them
        fastest.
        """
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        return self.map(lambda t: t.to(memory_format=layouts[t.dim()]) if t.dim() in layouts else t)

    def take(self, index: Tensor) -> "Batch":
        """The examples with these numbers."""
        return self._rows(lambda t: t[index.to(t.device)])

    def part(self, start: int, stop: int) -> "Batch":
        """Examples `start` to `stop` of the batch."""
        return self._rows(lambda t: t[start:stop])

    def _rows(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same call with the rows of examples changed; none of them is a copy."""
        taken = self.map(lambda t: change(t) if t.dim() and t.shape[0] == self.size else t)
        real = None if self.real is None else change(self.real)
        return replace(taken, padding=0, real=real)


def make_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
    """Wrap arguments; the number of examples is the first tensor's leading size."""
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not leaves:
        raise CalibrationError(
            "A calibration batch holds no tensor. Yield tensors, (x, y) tuples or dicts of tensors."
        )
    return Batch(args, kwargs, leaves[0].shape[0] if leaves[0].dim() else 1)


def _signature(model: nn.Module) -> tuple[int, set[str], bool, set[str]]:
    """Required positional arguments of forward, its names, whether it takes any keyword, and the
    names that it requires.
    """
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return 1, set(), True, set()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind not in OPEN and p.default is inspect.Parameter.empty]
    required = sum(p.kind in kinds for p in needed)
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return max(required, 1), {p.name for p in parameters}, anything, {p.name for p in needed}


def to_batch(model: nn.Module, item: Any) -> Batch:
    """Turn what a loader yields into the model's arguments, on its device; labels are dropped.

    A tensor is the only argument. Of a tuple or list as many leading items are taken as forward
    requires. A dict is keyword arguments; keys such as `labels`, unless forward requires them, and
    keys that forward does not know are left out.

    Raises:
        CalibrationError: nothing of that can be made of it, or a tensor has no values that can be
            computed with: sparse ones, and those on the meta device.
    """
    batch = item if isinstance(item, Batch) else _to_batch(model, item)
    for tensor in batch.tensors():
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "on the meta device" if tensor.is_meta else f"of layout {tensor.layout}"
            raise CalibrationError(
                f"A calibration batch holds a tensor {tuple(tensor.shape)} {kind}. Yield dense "
                "tensors with values, such as tensor.to_dense()."
            )
    first = next(model.parameters(), None)
    if first is None or all(tensor.device == first.device for tensor in batch.tensors()):
        return batch  # the usual case, told without a look at every tensor of the model
    device = device_of(model)
    return batch if device is None else batch.map(lambda tensor: tensor.to(device))


def device_of(model: nn.Module) -> torch.device | None:
    """The one device on which all of a model's tensors are; None where there are several, or none,
    or where they have no values.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    (device,) = devices if len(devices) == 1 else (None,)
    return None if device is None or device.type == "meta" else device


def _to_batch(model: nn.Module, item: Any) -> Batch:
    required, names, anything, needed = _signature(model)
    if isinstance(item, Tensor):
        return make_batch((item,), {})
    if isinstance(item, (tuple, list)):
        if len(item) < required:
            raise CalibrationError(
                f"A calibration batch is a {type(item).__name__} of {len(item)} items, but the "
                "model's forward requires "
                f"{required} arguments."
            )
        return make_batch(tuple(item[:required]), {})
    if hasattr(item, "keys"):
        kwargs = {
            k: item[k]
            for k in item.keys()
            if (k in names or anything) and (k not in LABEL_KEYS or k in needed)
        }
        if not kwargs:
            raise CalibrationError(
                f"A calibration batch is a dict with keys {sorted(map(str, item.keys()))}; the "
                f"model's forward takes {sorted(names)}."
            )
        return make_batch((), kwargs)
    raise CalibrationError(
        f"A calibration batch is a {type(item).__name__}. Yield a tensor, a tuple (x, y) whose "
        "labels are ignored, or a dict of "
        "keyword arguments."
    )


def labels_in(model: nn.Module, item: Any) -> Any:
    """The labels in what a loader yields, which `to_batch` drops; None where there are none.

    Of a tuple or list the first item that forward does not require, of a dict what stands under a
    key such as `labels`.
    """
    if isinstance(item, (tuple, list)):
        required = _signature(model)[0]
        return item[required] if len(item) > required else None
    if isinstance(item, Tensor) or not hasattr(item, "keys"):
        return None
    return next((item[key] for key in item.keys() if key in LABEL_KEYS), None)


def example_batch(model: nn.Module, example: Any) -> Batch:
    """A batch of two examples, as tracing with a free batch size needs.

    Raises:
        CalibrationError: there is no example in it, or as `to_batch`.
    """
    batch = to_batch(model, example)
    if not batch.size:
        raise CalibrationError(
            f"example= holds no example: its first tensor has the shape "
            f"{tuple(batch.tensors()[0].shape)}. Give one or two, or leave it out."
        )
    if batch.size == 1:
        batch = batch.map(lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t)
    return batch.part(0, 2)


def require_alike(first: Batch, batch: Batch, at: int) -> None:
    """Check that a batch has the first one's arguments, nests and constants.

    Args:
        at: number of its first example, for messages.

    Raises:
        CalibrationError: says which argument differs.
    """
    if batch.kwargs.keys() != first.kwargs.keys():
        raise CalibrationError(
            f"The calibration batch from example {at} is a dict with keys "
            f"{sorted(batch.kwargs)}, the first one with {sorted(first.kwargs)}. Give every batch "
            "the same keys."
        )
    pairs = [
        *(
            (f"argument {i + 1}", *p)
            for i, p in enumerate(zip(first.args, batch.args, strict=False))
        ),
        *((name, first.kwargs[name], batch.kwargs[name]) for name in first.kwargs),
    ]
    for name, a, b in pairs:
        leaves, form = pytree.tree_flatten(a)
        others, other = pytree.tree_flatten(b)
        if form != other or len(first.args) != len(batch.args):
            raise CalibrationError(
                f"The calibration batch from example {at} has another structure than the first "
                f"one at {name}. Give every batch the same nest of tensors."
            )
        for x, y in zip(leaves, others, strict=True):
            constants = not isinstance(x, Tensor) and not isinstance(y, Tensor)
            if isinstance(x, Tensor) != isinstance(y, Tensor) or constants and x != y:
                raise CalibrationError(
                    f"The calibration batch from example {at} has {name}={_shown(y)}, the first "
                    f"one {_shown(x)}. What is no tensor becomes a part of the compressed model: "
                    "give every batch the same value, or compress once for each."
                )


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def is_mask(values: Tensor) -> bool:
    """Whether a tensor is a mask to add to scores: zeros, and minus infinity where nothing is
    seen.
    """
    return bool(((values == 0) | (values == -torch.inf)).all())
