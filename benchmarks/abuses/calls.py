"""Abuses of the Python interface: every keyword of every public function with every odd value."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

import fxprune
from benchmarks.abuses.judge import Abuse
from benchmarks.abuses.loaders import LOADERS
from benchmarks.abuses.models import MODELS
from benchmarks.abuses.subjects import calls, model
from benchmarks.abuses.values import ENDLESS, SPECIAL, VALUES

MODEL_KEYS = ("model", "original", "small", "into")
DATA_KEYS = ("calib_loader", "example")
TRIED = {"effort": {"method": "channels"}, "selector": {"method": "channels"}}
"""What else a keyword needs in order to matter."""
TRIED["decision"] = {"selector": "magnitude"}


def changed(
    name: str, keyword: str, value: Callable[[], Any], base: Callable[[], dict[str, Any]]
) -> tuple[Callable[[], Any], list[Any]]:
    """The call with one argument changed, and everything in it that must not change."""
    arguments = {**base(), **TRIED.get(keyword, {})} if name != "factorize" else base()
    if name in ("apply", "analyze"):
        arguments = base()
    if keyword in ("params", "agreement", "latency") and name != "factorize":
        arguments.pop("flops", None)
    arguments[keyword] = value()
    function = attrgetter(name)(fxprune)
    watched = [v for k, v in arguments.items() if isinstance(v, torch.nn.Module)]
    return lambda: function(**arguments), watched


def abuse(
    kind: str, name: str, keyword: str, label: str, value: Any, folder: Path, python: bool = False
) -> Abuse:
    """One argument of one function."""
    prepare = partial(changed, name, keyword, value, calls(folder)[name])
    return Abuse(f"{name}({keyword}={label})", kind, prepare, python)


def python_abuses(folder: Path) -> Iterator[Abuse]:
    """Every one, in a fixed order.

    Args:
        folder: for files.
    """
    for name in calls(folder):
        keywords = list(inspect.signature(attrgetter(name)(fxprune)).parameters)
        if "options" in keywords:
            keywords.remove("options")
        yield abuse("unknown keyword", name, "odd", "1", lambda: 1, folder, python=True)
        yield abuse("unknown keyword", name, "flop", "1", lambda: 1, folder, python=True)
        for keyword in keywords:
            for label, value in {**VALUES, **SPECIAL.get(keyword, {})}.items():
                if (keyword, label) not in ENDLESS:
                    yield abuse("odd value", name, keyword, label, value, folder)
            if keyword in MODEL_KEYS and name != "benchmark":
                for label, value in MODELS.items():
                    yield abuse("odd model", name, keyword, label, value, folder)
            if keyword in DATA_KEYS and name != "benchmark":
                for label, value in LOADERS.items():
                    yield abuse("odd loader", name, keyword, label, value, folder)
    yield from _together(folder)


@contextmanager
def _meta_by_default() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu"),
    "detect_anomaly": torch.autograd.detect_anomaly,
    "meta device": lambda: torch.device("meta"),
    "meta by default": _meta_by_default,
    "deterministic": lambda: torch.backends.mkldnn.flags(enabled=False),
}


def _surrounded(
    name: str, make: Callable[[], dict[str, Any]], context: Callable[[], Any]
) -> tuple[Callable[[], Any], list[Any]]:
    arguments = make()

    def run() -> None:
        with context():
            attrgetter(name)(fxprune)(**arguments)

    return run, [v for v in arguments.values() if isinstance(v, torch.nn.Module)]


def _together(folder: Path) -> Iterator[Abuse]:
    """Surroundings: odd modes of torch, and few examples."""
    for name, make in calls(folder).items():
        for label, context in SURROUNDINGS.items():
            prepare = partial(_surrounded, name, make, context)
            yield Abuse(f"{name} under {label}", "surroundings", prepare)
    for count in (1, 2, 3, 5):

        def few(count: int = count) -> tuple[Callable[[], Any], list[Any]]:
            net = model()
            data = torch.randn(count, 6)
            return lambda: fxprune.compress(net, data, flops=0.6, progress=False), [net]

        yield Abuse(f"compress on {count} examples by auto", "odd loader", few)
