"""Which constructs a random network chains: drawn from a seed, replayed, cut down."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.random_graphs import (
    convolutions,
    imported,
    joining,
    mixing,
    movement,
    pointwise,
    rows,
    weighing,
)
from benchmarks.random_graphs.constructs import CONSTRUCTS
from benchmarks.random_graphs.program import Program, Value

FAMILIES = (convolutions, joining, pointwise, movement, mixing, rows, imported, weighing)
"""Imported for their entries in the table."""
LARGEST = 60
"""Operators of the longest network, about."""
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Input:
    """One input: its kind and its shape without the batch; "ids" are whole numbers."""

    kind: Literal["map", "tokens", "flat", "ids"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One construct: which, of what numbers, how wide at most, and how far back its input is."""

    construct: str
    seed: int
    widest: int
    back: int


@dataclass(frozen=True)
class Recipe:
    """What a network is written from.

    Attributes:
        seed: of the weights and of the channels that go.
        inputs, blocks: in order.
        result: how the outputs are returned.
        dtype: of the weights.
    """

    seed: int
    inputs: tuple[Input, ...]
    blocks: tuple[Block, ...]
    result: str
    dtype: str


@dataclass(frozen=True)
class Written:
    """A network as source.

    Attributes:
        source: of the class `Net`.
        used: constructs that are in it.
    """

    source: str
    used: tuple[str, ...]


def draw_recipe(seed: int) -> Recipe:
    """A random network: one to three inputs, constructs until it has 3 to 60 operators."""
    draw = random.Random(seed)
    inputs = tuple(_input(draw) for _ in range(draw.choice((1, 1, 1, 1, 2, 2, 3))))
    wanted = round(3 * (LARGEST / 3) ** (draw.random() ** 1.4))
    blocks: list[Block] = []
    program = _start(inputs, seed)
    while program.operators() < wanted and len(blocks) < LARGEST:
        back = int(draw.expovariate(1.2))
        block = Block("", draw.randrange(1 << 30), draw.choice((3, 4, 6, 8)), back)
        source = _pick(program, back)
        fitting = [c for c in CONSTRUCTS.values() if c.takes(source)]
        name = draw.choices(fitting, [c.weight for c in fitting])[0].name
        block = Block(name, block.seed, block.widest, back)
        if _write(program, block):
            blocks.append(block)
    result = draw.choice(("one", "one", "tuple", "dict", "nested", "loose"))
    dtype = draw.choice(("float64",) * 8 + ("float32", "bfloat16"))
    return Recipe(seed, inputs, tuple(blocks), result, dtype)


def _input(draw: random.Random) -> Input:
    kind = draw.choice(("map", "map", "map", "tokens", "tokens", "flat", "ids"))
    channels = draw.randint(1, 5)
    if kind == "map":
        rank = draw.choice((1, 2, 2, 2, 3))
        size = draw.choice((2, 3, 4)) if rank > 1 else draw.choice((3, 4, 6))
        return Input("map", (channels, *[size] * rank))
    length = draw.choice((3, 4, 4, 9))
    if kind == "tokens":
        return Input("tokens", (length, channels))
    return Input("ids", (length,)) if kind == "ids" else Input("flat", (channels + 1,))


def _start(inputs: Sequence[Input], seed: int) -> Program:
    """A program with its inputs, each after a first layer."""
    program = Program()
    for i, given in enumerate(inputs):
        program.draw, program.widest = random.Random(seed + i), 8
        program.inputs.append(f"x{i}")
        if given.kind == "ids":
            width = program.width()
            table = program.layer(f"Embedding(7, {width})")
            first = program.let(f"{table}(x{i})", "tokens", *given.shape, width)
        else:
            first = Value(f"x{i}", given.kind, given.shape)
            if program.draw.random() < 0.8:
                first = program.project(first, program.width())
        program.pool.append(first)
    return program


def _pick(program: Program, back: int) -> Value:
    return program.pool[max(len(program.pool) - 1 - back, 0)]


def _write(program: Program, block: Block) -> bool:
    """Write a construct on the last value that it takes, from `back` on; whether there was one."""
    construct = CONSTRUCTS[block.construct]
    start = len(program.pool) - 1 - block.back
    order = [*range(max(start, 0), -1, -1), *range(max(start, 0) + 1, len(program.pool))]
    for at in order:
        source = program.pool[at]
        if not construct.takes(source):
            continue
        program.draw, program.widest = random.Random(block.seed), block.widest
        made = construct.write(program, source)
        if made is not None:
            program.pool.append(made)
            return True
    return False


def write(recipe: Recipe) -> Written:
    """The network of a recipe."""
    program = _start(recipe.inputs, recipe.seed)
    used = [block.construct for block in recipe.blocks if _write(program, block)]
    program.draw = random.Random(recipe.seed)
    return Written(program.source(_outputs(program, recipe.result)), tuple(used))


def _outputs(program: Program, result: str) -> str:
    """What nobody reads is returned, most of it after a last layer."""
    text = "\n".join(program.lines)
    loose = [v for v in program.pool if f"{v}" not in _words(text, v)]
    program.widest = 4
    ends = [v if result == "loose" else _head(program, v) for v in loose[-4:]]
    names = [str(v) for v in ends]
    if result == "dict":
        return "{" + ", ".join(f"'{chr(97 + i)}': {n}" for i, n in enumerate(names)) + "}"
    if result == "nested":
        return f"({names[0]}, {{'rest': [{', '.join(names[1:])}]}})"
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _words(text: str, value: Value) -> set[str]:
    """Variables that a program reads, without the places where this one is made."""
    read = "\n".join(line.partition(" = ")[2] or line for line in text.split("\n"))
    for mark in "()[]{},.*+-/@:<> ":
        read = read.replace(mark, "\n")
    return set(read.split("\n"))


def _head(program: Program, x: Value) -> Value:
    """A last layer, after pooling perhaps."""
    if x.kind == "map" and program.draw.random() < 0.5:
        x = program.let(f"{x}.flatten(2).mean(-1)", "flat", x.channels)
    elif x.kind == "tokens" and program.draw.random() < 0.5:
        x = program.let(f"{x}.mean(1)", "flat", x.channels)
    return program.project(x, program.draw.randint(1, 4))


def examples(recipe: Recipe, count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Random inputs, so many examples of each."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for given in recipe.inputs:
        shape = (count, *given.shape)
        if given.kind == "ids":
            made.append(torch.randint(0, 7, shape, generator=generator))
        else:
            made.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    return tuple(t.to(DTYPES[recipe.dtype]) if t.is_floating_point() else t for t in made)
