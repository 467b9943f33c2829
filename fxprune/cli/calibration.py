"""The examples that a command line names: batches to calibrate on, or one call to trace with."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from fxprune.calibrate.groups import Groups, Labels
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch, make_batch
from fxprune.cli import sources
from fxprune.cli.groups import read_groups
from fxprune.cli.parsing import parse_device, parse_dtype, parse_numbers, parse_shape
from fxprune.cli.presets import PIXELS, preset_of
from fxprune.errors import FxpruneError, SourceError
from fxprune.handover.report import report

SIZE = 224
"""Side of the crop where neither the caller nor the model's library says one."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the options say about examples; each as it stands on the command line.

    Attributes:
        model: whose library says how images become inputs.
        data, batch, limit, groups, shape: see the options.
        size, gray, mean, std: of images.
        device, dtype: of the model, and of the floating tensors it is given.
        offload: whether the model stays on the CPU, and only the work is done on the device.

    Raises:
        SourceError: no device is named for that.
    """

    model: str
    data: str = ""
    batch: int = 50
    limit: int | None = None
    groups: str = ""
    shape: str = ""
    size: int | None = None
    gray: bool = False
    mean: str = ""
    std: str = ""
    device: str | None = None
    offload: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.offload and self.device is None:
            raise SourceError("--offload needs a --device to bring weights to, such as cuda.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Source":
        """What options by their names say."""
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})

    def place(self, net: nn.Module) -> nn.Module:
        """The model in its dtype, and on its device where it does not stay.

        Raises:
            SourceError: there is none such here.
        """
        device = parse_device(self.device)
        return net.to(device=None if self.offload else device, dtype=parse_dtype(self.dtype))

    @property
    def work(self) -> torch.device | None:
        """Where the work is done; None for where the model is.

        Raises:
            SourceError: there is none such here.
        """
        return parse_device(self.device) if self.offload else None

    def read(self, net: nn.Module) -> tuple[Any, Groups | None]:
        """The calibration batches, and which examples belong together.

        Raises:
            SourceError: says what is missing.
        """
        loader = sources.data(self.data, self._images(net), self.batch, self.limit)
        groups = read_groups(self.groups, self.data, loader, self.limit)
        Labels(groups, loader)  # labels by order need a loader that has one
        return self._cast(loader), groups

    def example(self, net: nn.Module, small: nn.Module | None = None) -> Any:
        """Two examples: zeros of a shape, the first ones of the data, those that a compressed model
        was traced on, as zeros, or what transformers calls a model's dummy inputs.

        Args:
            net: that takes them.
            small: made of it, if known.

        Raises:
            SourceError: nothing says what the model takes.
        """
        if self.shape:
            zeros = torch.zeros(2, *parse_shape(self.shape))
            return next(iter(self._cast([zeros])))
        if self.data:
            loader = sources.data(self.data, self._images(net), limit=2)
            return Calibration(net, self._cast(loader)).example
        found = traced_on(small or net) or dummy_inputs(net)
        if found is None:
            raise SourceError("Name an example's --shape (such as 3,224,224) or --data.")
        return next(iter(self._cast([found]))) if isinstance(found, dict) else found

    def _cast(self, loader: Any) -> Any:
        dtype = parse_dtype(self.dtype)
        return loader if dtype is None else sources.Cast(loader, dtype)

    def _images(self, net: nn.Module) -> sources.ImageOptions:
        """How images become inputs: as the model's library says, where nothing else is said."""
        mean, std = parse_numbers(self.mean), parse_numbers(self.std)
        told = bool(self.size and mean and std) or not sources.is_folder(self.data)
        preset = None if told else preset_of(self.model, net)
        if preset is None:
            return sources.ImageOptions(self.size or SIZE, self.gray, mean, std)
        if self.size is None and not (self.gray or mean or std):
            return sources.ImageOptions(preset.size, preset=preset)
        return sources.ImageOptions(
            self.size or preset.size, self.gray, mean or preset.mean, std or preset.std
        )


def traced_on(net: nn.Module) -> Batch | None:
    """Zeros of the shapes that a compressed model was traced on; None for other models."""
    try:
        inputs = report(net).inputs
    except FxpruneError:
        return None
    dtypes = [getattr(torch, row.dtype, None) for row in inputs]
    if not inputs or not all(isinstance(dtype, torch.dtype) for dtype in dtypes):
        return None
    zeros = [
        (row.name, torch.zeros(row.shape, dtype=dtype))
        for row, dtype in zip(inputs, dtypes, strict=True)
    ]
    return make_batch(
        tuple(zero for name, zero in zeros if not name),
        {name: zero for name, zero in zeros if name},
    )


def dummy_inputs(net: nn.Module) -> dict[str, torch.Tensor] | None:
    """What transformers says that its model takes; None for other models.

    Its own dummy inputs are tokens, for models of images too: those get zeros of their sizes.
    """
    found, main = getattr(net, "dummy_inputs", None), getattr(net, "main_input_name", None)
    if not isinstance(found, dict) or main in found or main is None:
        return found if isinstance(found, dict) else None
    config = getattr(net, "config", None)
    side, channels = (getattr(config, name, None) for name in ("image_size", "num_channels"))
    if main != PIXELS or not isinstance(side, int) or not isinstance(channels, int):
        return None
    return {main: torch.zeros(2, channels, side, side)}
