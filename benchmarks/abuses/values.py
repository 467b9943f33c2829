"""Values that no keyword is meant to take, and what each keyword asks beyond them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "0.5": lambda: 0.5,
    "2.5": lambda: 2.5,
    "huge": lambda: 10**30,
    "True": lambda: True,
    "1j": lambda: 1j,
    "''": lambda: "",
    "'odd'": lambda: "odd",
    "a NUL": lambda: "\0",
    "bytes": lambda: b"odd",
    "[]": lambda: [],
    "[None]": lambda: [None],
    "[1, 'a']": lambda: [1, "a"],
    "{}": lambda: {},
    "{1: 'a'}": lambda: {1: "a"},
    "{'*': nan}": lambda: {"*": float("nan")},
    "{'*': 'a'}": lambda: {"*": "a"},
    "set()": lambda: set[int](),
    "float64 0.5": lambda: np.float64(0.5),
    "float32 0.5": lambda: np.float32(0.5),
    "int64 3": lambda: np.int64(3),
    "array": lambda: np.zeros((2, 3)),
    "0-dim tensor": lambda: torch.tensor(0.5),
    "0-dim int tensor": lambda: torch.tensor(3),
    "tensor (2,)": lambda: torch.tensor([0.5, 2.0]),
    "empty tensor": lambda: torch.empty(0),
    "object": lambda: object(),
    "a class": lambda: int,
    "a function": lambda: lambda *a, **k: None,
    "a generator": lambda: (x for x in "odd"),
    "a dtype": lambda: torch.float16,
    "a device": lambda: torch.device("meta"),
}

ENDLESS = frozenset(
    {(name, "huge") for name in ("effort", "rounds", "batches", "seconds")}
    | {("seconds", value) for value in ("inf", "2.5")}
)
"""(keyword, value) that ask for long work and get it."""


def returning(value: Any) -> Callable[..., Any]:
    """A function of whatever that always returns this."""
    return lambda *args, **kwargs: value


def raising(*args: Any, **kwargs: Any) -> Any:
    """A function that fails."""
    raise KeyError("odd")


DECISIONS: dict[str, Callable[[], Any]] = {
    "scores": lambda: lambda a, b: a == b,
    "counts": lambda: lambda a, b: (a == b).sum(1),
    "nan": lambda: lambda a, b: torch.full((len(a),), float("nan")),
    "floats": lambda: lambda a, b: torch.full((len(a),), 0.5),
    "one bool": lambda: lambda a, b: True,
    "a list": lambda: lambda a, b: [True] * len(a),
    "numpy": lambda: lambda a, b: np.ones(len(a), dtype=bool),
    "too many": lambda: lambda a, b: torch.ones(len(a) + 1, dtype=torch.bool),
    "one argument": lambda: lambda a: a,
    "raises": lambda: raising,
    "'argmax'": lambda: "argmax",
    "'nonsense'": lambda: "nonsense",
}


def _plan_with(key: str, value: str) -> str:
    """A plan's JSON with one entry replaced."""
    entries = {"version": "2", "kept": "{}", "shapes": "{}", "widths": "{}"} | {key: value}
    return "{" + ", ".join(f'"{k}": {v}' for k, v in entries.items()) + "}"


SPECIAL: dict[str, dict[str, Callable[[], Any]]] = {
    "decision": DECISIONS,
    "round_to": {"a prime": lambda: 7, "wider than any": lambda: 4096},
    "ignore": {"everything": lambda: "*", "a glob of none": lambda: "nothing.*"},
    "keep": {
        "all": lambda: {"*": 1.0},
        "above 1": lambda: {"*": 1.5},
        "none": lambda: {"nothing.*": 0.5},
        "numpy": lambda: {"*": np.float64(0.5)},
        "0-dim": lambda: {"*": torch.tensor(0.5)},
    },
    "targets": {
        "all": lambda: ["*"],
        "one": lambda: ["0"],
        "twice": lambda: ["0", "0"],
        "none": lambda: ["nothing"],
    },
    "budgets": {
        "twice": lambda: (0.6, 0.6),
        "nan": lambda: [float("nan")],
        "above 1": lambda: (0.6, 1.2),
        "numpy": lambda: np.array([0.6, 0.8]),
        "a tensor": lambda: torch.tensor([0.6, 0.8]),
    },
    "batches": {"0 in it": lambda: (0,), "text": lambda: ("a",), "numpy": lambda: np.array([2])},
    "modes": {"text": lambda: "eager", "unknown": lambda: ("eager", "odd")},
    "text": {
        "deep": lambda: "[" * 100_000,
        "null": lambda: "null",
        **{
            f"a plan whose {key} is {value}": partial(_plan_with, key, value)
            for key in ("version", "kept", "shapes", "widths", "method", "settings", "factorings")
            for value in ("null", "3", "1e400", "-1", "[]", '"a"', '{"a": 1e400}', '{"a": [1]}')
        },
    },
    "memory": {"one byte": lambda: 1, "none": lambda: 0.0},
    "device": {"unknown": lambda: "odd:7", "absent": lambda: "cuda:99", "meta": lambda: "meta"},
    "dtype": {"int": lambda: torch.int8, "complex": lambda: torch.complex64, "bool": lambda: bool},
}
"""Keyword -> odd values of its own."""
