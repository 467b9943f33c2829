"""Files that fxprune did not write: saved ones taken apart, changed, and put together again."""

import ast
import copy
import hashlib
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

import fxprune
from fxprune.errors import StorageError

CANARY = "open('canary', 'w')"


class File:
    """A saved file taken apart."""

    def __init__(self, content: bytes):
        (size,) = struct.unpack("<Q", content[:8])
        self.header = json.loads(content[8 : 8 + size])
        self.rest = content[8 + size :]
        self.document = json.loads(self.header["__metadata__"]["fxprune"])

    def content(self, **texts: str) -> bytes:
        """The file with a digest that fits, as an attacker would write it; `texts` replace parts
        of the description.
        """
        held = self.header["__metadata__"]
        held |= {"fxprune": json.dumps(self.document), **texts}
        held["sha256"] = hashlib.sha256(
            "\0".join(held[k] for k in ("fxprune", "plan", "report")).encode()
        ).hexdigest()
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + self.rest


def attempt(content: bytes) -> GraphModule | str:
    """What loading gives, or the error's text; any other kind of error is raised."""
    Path("bad.safetensors").write_bytes(content)
    try:
        return fxprune.load("bad.safetensors")
    except StorageError as error:
        assert str(error).startswith("bad.safetensors")  # noqa: PT017
        return str(error)


def refused(content: bytes, words: str = "") -> None:
    found = attempt(content)
    assert isinstance(found, str), "loaded"
    assert words in found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON document."""
    if isinstance(value, dict):
        return [path] + [p for k, v in value.items() for p in places(v, (*path, k))]
    if isinstance(value, list):
        return [path] + [p for i, v in enumerate(value) for p in places(v, (*path, i))]
    return [path]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    result = copy.copy(document)
    result[path[0]] = replaced(document[path[0]], path[1:], value)
    return result


def calls(small: GraphModule) -> set[str]:
    """Everything that the compiled source calls."""
    return {
        ast.unparse(n.func)
        for n in ast.walk(ast.parse(small.code.strip()))
        if isinstance(n, ast.Call)
    }


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def broken(content: bytes) -> Iterator[bytes]:
    """The content cut short, and with single bits flipped."""
    generator = random.Random(0)
    yield from (content[: len(content) * part // 12] for part in range(12))
    for _ in range(60):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        yield bytes(changed)


class Runs:
    """A pickle that leaves a file where it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("canary", "w")
