"""Smaller models of classes that are built of a configuration, as those of transformers are."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import UnsupportedError
from fxprune.plans.plan import Plan, reduced_shape

MOST = 3
"""Numbers of a configuration that are changed together at most, for one kind of channels."""
BUILDS = 64
"""Configurations that are tried."""


def has_config(model: nn.Module) -> bool:
    """Whether a model's class is built of the configuration that the model holds."""
    config = getattr(model, "config", None)
    return hasattr(config, "to_dict") and hasattr(model, "save_pretrained")


def changes_of(plan: Plan) -> list[tuple[int, int]]:
    """Sizes of weight axes before and after, each pair once."""
    found: dict[tuple[int, int], None] = {}
    for name, axes in plan.kept.items():
        shape = plan.shapes[name]
        for axis in axes:
            found[shape[axis], reduced_shape(name, shape, plan)[axis]] = None
    return list(found)


def find_config(model: nn.Module, small: nn.Module, changes: Iterable[tuple[int, int]]) -> Any:
    """The configuration of the model with numbers changed so that its class has a smaller model's
    shapes.

    Args:
        model: the original.
        small: a graph or a model of the class, with its tensors under the same names.
        changes: sizes before and after.

    Raises:
        UnsupportedError: no number of the configuration says so; names a tensor that differs.
    """
    wanted = _shapes(small)
    offers = list(_offers(model.config, changes))
    ways = (way for n in range(MOST + 1) for way in combinations(offers, n))
    problem = ""
    for _, way in zip(range(BUILDS), ways, strict=False):
        if len({name for name, _ in way}) < len(way):
            continue
        config = copy.deepcopy(model.config)
        found = _mismatch(model, config, way, wanted)
        if not found:
            return config
        problem = problem or found
    raise UnsupportedError(
        f"no numbers of its {type(model.config).__name__} say the sizes of {problem}"
    )


def build_of(model: nn.Module, config: Any, small: nn.Module) -> nn.Module:
    """A model of the class with a configuration and the tensors of a smaller one; buffers that are
    not saved are those that the class makes.
    """
    made = type(model)(config).to(next(model.parameters()).dtype)
    state = model.state_dict() | _tensors(small)
    made.load_state_dict({name: state[name].detach() for name in made.state_dict()})
    return made.to(next(model.parameters()).device).eval()


def _tensors(small: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(small.named_parameters(remove_duplicate=False)),
        **dict(small.named_buffers(remove_duplicate=False)),
    }


def _shapes(small: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _tensors(small).items()}


def _offers(config: Any, changes: Iterable[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Numbers that may say the changes: those of the sizes before, and those that are left open."""
    known = config.to_dict()
    for before, after in changes:
        yield from (
            (n, after) for n, value in known.items() if type(value) is int and value == before
        )
    plain = set(_plain(type(config)))
    for _, after in changes:
        yield from ((n, after) for n, value in known.items() if value is None and n not in plain)


def _plain(kind: Any) -> dict[str, Any]:
    """What every configuration has."""
    known: dict[str, Any] = kind.__base__().to_dict()
    return known


def _mismatch(
    model: nn.Module,
    config: Any,
    way: Iterable[tuple[str, int]],
    wanted: Mapping[str, tuple[int, ...]],
) -> str:
    """Change numbers of a configuration; the first tensor of its model that then has another shape
    than wanted.
    """
    try:
        for name, value in way:
            setattr(config, name, value)
        with torch.device("meta"):
            built = type(model)(config)
    except Exception as error:  # whatever a constructor raises
        return f"{type(error).__name__}: {error}"
    for name, shape in _shapes(built).items():
        if name in wanted and wanted[name] != shape:
            return f"{name} {wanted[name]}"
    missing = [name for name in wanted if name.endswith(("weight", "bias"))]
    missing = [name for name in missing if name not in _shapes(built)]
    return f"{missing[0]} {wanted[missing[0]]}" if missing else ""
