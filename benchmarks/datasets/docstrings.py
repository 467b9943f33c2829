"""Text that every machine with Python has: the docstrings of its standard library, as bytes."""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

SPLITS = {"train": range(8), "calibration": range(8, 9), "test": range(9, 10)}
"""Tenths of the files, told apart by their names, so that none is in two of them whatever the
version of Python.
"""
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})


def library() -> Path:
    """Where the standard library lies."""
    return Path(sysconfig.get_paths()["stdlib"])


def text(split: str, folder: Path | None = None) -> Tensor:
    """The docstrings of a split, one after the other, (bytes,) int64.

    Args:
        split: of `SPLITS`.
        folder: of Python files; the standard library by default.
    """
    root, parts = folder or library(), list[bytes]()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if LEFT_OUT.isdisjoint(name.parts) and _tenth(name.as_posix()) in SPLITS[split]:
            parts += [f"{doc}\n\n".encode() for doc in _docstrings(path)]
    return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8).long()


def windows(tokens: Tensor, length: int, count: int, seed: int = 0) -> Tensor:
    """Pieces of a text that do not overlap, drawn at random, (count, length) int64; fewer where
    there are no more.
    """
    pieces = tokens[: len(tokens) // length * length].reshape(-1, length)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))
    return pieces[order[:count]]


def _tenth(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0] % 10


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        found = ast.get_docstring(node) if isinstance(node, kinds) else None
        if found and len(found) > 40:
            yield found
