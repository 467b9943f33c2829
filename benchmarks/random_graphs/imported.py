"""What converted and hand-written networks do beside calling layers: parts of a tensor are written
over, shapes are read from other tensors, numbers stand in buffers, values are thrown away.
"""

from math import prod

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.joining import axis
from benchmarks.random_graphs.program import Program, Value


@construct(weight=0.3)
def assigned(p: Program, x: Value) -> Value:
    """Parts of a tensor are written over, behind a batch norm perhaps; only torch.export traces
    that, which takes ten times as long.
    """
    y = p.project(x, p.width() + 1)
    if x.kind == "map" and p.draw.random() < 0.5:
        y = p.like(f"{p.layer(f'BatchNorm{x.rank}d({y.channels})')}({y})", y)
    z, every = p.say(f"{y}.clone()"), ":, " * axis(x)
    parts = [f"{every}0::2", f"{every}0::3", f"{every}1:", f"{every}:1", f"{every}-1:"]
    if x.rank:
        parts.append(":, :1" if x.kind == "tokens" else "..., :1")
    part = p.draw.choice(parts)
    old = f"{z}[{part}]"
    new = p.some(f"{old}.sigmoid()", f"{old} * 2", "0.5", f"{old}.relu() + {y}[{part}]")
    p.lines.append(f"{old} = {new}")
    return p.like(f"{z} * 1", y)


@construct()
def shaped_like(p: Program, x: Value) -> Value:
    """Shapes and types that are read from other tensors."""
    y = p.project(x, p.width())
    flat, pooled = p.say(f"{y}.flatten(1)"), p.say(f"{y}.sum({axis(y)}, keepdim=True)")
    forms = [
        f"{y} * torch.ones_like({y}).type_as({y})", f"{y} + {y}.new_ones({y}.shape)",
        f"{y} + {pooled}.expand_as({y})", f"{flat}.reshape_as({y})", f"{flat}.view_as({y}) * 2",
        f"torch.full_like({y}, 0.5) * {y}", f"{y}.new_full({y}.size(), 0.5) - {y}",
        f"{y} + torch.empty_like({y}).fill_(0.3)", f"{pooled}.broadcast_to({y}.shape) * {y}",
    ]  # fmt: skip
    if prod(y.shape) <= 600:
        zeros = f"torch.zeros({y}.shape[0], {prod(y.shape)}, dtype={y}.dtype)"
        forms.append(f"({y}.reshape_as({zeros}) * 1.5).reshape({y}.shape)")
    return p.like(p.draw.choice(forms), y)


@construct()
def discarded(p: Program, x: Value) -> Value:
    """Infinite values that a choice throws away."""
    y = p.project(x, p.width())
    small = f"({y}.abs() > 0.1)"
    forms = (
        f"torch.where({y} > 0.1, torch.log({y}.relu()), torch.zeros_like({y}))",
        f"torch.where({small}, 1 / ({y} * {small}), {y}).clamp(-3, 3)",
        f"torch.nan_to_num(torch.log({y}.relu()), neginf=-1.0)",
        f"torch.log({y}.relu()).clamp_min(-2)",
    )
    return p.like(p.draw.choice(forms), y)


@construct("map")
def frozen_norm(p: Program, x: Value) -> Value:
    """A batch norm of buffers alone: by the function, or written out."""
    y = p.project(x, p.width(), p.some(1, 3))
    zeros = f"torch.zeros({y.channels})"
    mean, shift = p.buffer(zeros), p.buffer(zeros)
    variance, scale = p.buffer(zeros, "_running_var"), p.buffer(zeros, "_weight")
    view = f".view(1, -1{', 1' * x.rank})"
    forms = (
        f"F.batch_norm({y}, {mean}, {variance}, {scale}, {shift})",
        f"({y} - {mean}{view}) * ({scale} * ({variance} + 1e-5).rsqrt()){view} + {shift}{view}",
    )
    return p.activate(p.like(p.draw.choice(forms), y))


@construct()
def held_numbers(p: Program, x: Value) -> Value:
    """Sizes, places and conditions that stand in buffers."""
    width, at = p.width(), axis(x)
    y = p.project(x, 2 * width)
    sizes, flag = p.buffer(f"torch.tensor([{width}, {width}])"), p.buffer("torch.tensor(True)")
    forms = (
        f"torch.cat({y}.split({sizes}.tolist(), {at})[::-1], {at})",
        f"{y} if torch.any({sizes} == 0) else {y} * 0.5",
        f"{y} * 2 if {flag} else {y}",
        f"{y} + {sizes}.sum() * 0.1",
        f"torch.where({flag}, {y}, -{y})",
        f"{y}.unflatten({at}, (2, int({sizes}[1]))).flatten({at}, {at + 1})",
        f"{y}.roll(int({sizes}[0]), {at})",
    )
    if p.draw.random() < 0.2:
        return p.resized(f"{y}.narrow({at}, 0, int({sizes}[0]))", x, width)
    return p.like(p.draw.choice(forms), y)


@construct("map")
def relaid(p: Program, x: Value) -> Value:
    """Views of what was moved in memory."""
    y, count = p.project(x, p.width()), prod(x.sizes)
    c, batch = y.channels, f"{y}.shape[0]"
    last = "(0, " + ", ".join(map(str, range(2, x.rank + 2))) + ", 1)"
    forms = [
        f"{y}.permute{last}.contiguous().view({batch}, -1, {c})",
        f"{y}.flatten(2).permute(2, 0, 1).contiguous().view({count}, -1, {c}).transpose(0, 1)",
        f"{y}.permute{last}.contiguous().view(-1, {c}).relu().view({batch}, {count}, {c})",
        f"{y}.contiguous().view({batch}, {c}, -1).mT.contiguous()",
    ]
    if x.rank == 2:
        moved = f"{y}.contiguous(memory_format=torch.channels_last)"
        forms.append(f"{moved}.permute(0, 2, 3, 1).view({batch}, -1, {c})")
    return p.let(p.draw.choice(forms), "tokens", count, c)
