"""Values that meet: side by side, added, multiplied, chosen between."""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.program import Program, Value


def axis(x: Value) -> int:
    """Where the channels are, in the variable."""
    return 1 + x.rank if x.kind == "tokens" else 1


@construct(weight=3)
def concatenation(p: Program, x: Value) -> Value:
    """Two to four values side by side, the same one twice perhaps."""
    parts = [x, *(p.beside(x) for _ in range(p.some(1, 1, 2, 3)))]
    if p.draw.random() < 0.1:
        parts.append(x)
    p.draw.shuffle(parts)
    total = sum(part.channels for part in parts)
    if total > 40:
        parts, total = parts[:1], parts[0].channels
    names = ", ".join(map(str, parts))
    return p.resized(f"torch.cat([{names}], {p.some(axis(x), axis(x) - x.rank - 2)})", x, total)


@construct(weight=3)
def meeting(p: Program, x: Value) -> Value:
    """Two values of one shape meet elementwise."""
    y = p.matching(x)
    forms = (
        f"{x} + {y}", f"{x} - {y}", f"{x} * {y}", f"torch.maximum({x}, {y})",
        f"torch.minimum({x}, {y})", f"torch.lerp({x}, {y}, 0.3)", f"{x} * torch.sigmoid({y})",
        f"torch.where({x} > {y}, {x}, {y})", f"{x} / ({y}.abs() + 1)",
        f"torch.addcmul({x}, {y}, {y}, value=0.5)", f"torch.hypot({x}, {y} + 3)",
        f"torch.atan2({x}, {y}.abs() + 1)", f"torch.logaddexp({x}, {y})",
        f"torch.stack([{x}, {y}], 0).mean(0)", f"torch.stack([{x}, {y}], -1).sum(-1)",
        f"sum([{x}, {y}])", f"{x}.mul({y}).add({x})", f"torch.stack([{x}, {y}], 1).amax(1)",
    )  # fmt: skip
    return p.like(p.draw.choice(forms), x)


@construct()
def padded_shortcut(p: Program, x: Value) -> Value:
    """Zeros stand in for channels that a shortcut lacks."""
    extra = p.draw.randint(1, 4)
    before = p.draw.randint(0, extra)
    y = p.project(x, x.channels + extra)
    amounts = [0, 0] * (0 if x.kind == "tokens" else x.rank) + [before, extra - before]
    return p.like(f"{y} + F.pad({x}, {tuple(amounts)})", y)


@construct()
def concatenated_constant(p: Program, x: Value) -> Value:
    """Zeros, ones or coordinates beside the channels."""
    make = p.some("torch.zeros_like", "torch.ones_like")
    part = f"{x}[:, :1]" if axis(x) == 1 else f"{x}[..., :1]"
    return p.resized(f"torch.cat([{x}, {make}({part})], {axis(x)})", x, x.channels + 1)


@construct()
def gated(p: Program, x: Value) -> Value:
    """A gated linear unit over the two halves of a projection."""
    width = p.width()
    y, at = p.project(x, 2 * width), axis(x)
    if p.draw.random() < 0.4:
        return p.resized(f"F.glu({y}, {at})", x, width)
    a, b = (p.resized(f"{y}.{how}", x, width) for how in _halves(p, width, at))
    gate = p.some(f"torch.sigmoid({b})", f"F.gelu({b})", f"{b}", f"F.silu({b})")
    z = p.resized(f"{a} * {gate}", x, width)
    return p.project(z, x.channels) if p.draw.random() < 0.5 else z


def _halves(p: Program, width: int, at: int) -> tuple[str, str]:
    forms = (
        f"chunk(2, {at})[{{}}]",
        f"split({width}, {at})[{{}}]",
        f"split([{width}, {width}], {at})[{{}}]",
        f"tensor_split(2, {at})[{{}}]",
        f"unflatten({at}, (2, {width})).unbind({at})[{{}}]",
        f"unflatten({at}, ({width}, 2)).select({at + 1}, {{}})",
        f"narrow({at}, {{}} * {width}, {width})",
    )
    form = p.draw.choice(forms)
    return form.format(0), form.format(1)


@construct()
def split_parts(p: Program, x: Value) -> Value:
    """Unequal parts of the channels; one is processed, and all are side by side again."""
    at, sizes = axis(x), [p.width() for _ in range(p.some(2, 2, 3))]
    y = p.project(x, sum(sizes))
    names = [p.resized(f"{y}.split({sizes}, {at})[{i}]", x, s) for i, s in enumerate(sizes)]
    chosen = p.draw.randrange(len(sizes))
    names[chosen] = p.activate(p.project(names[chosen], p.width()))
    if p.draw.random() < 0.3:
        p.draw.shuffle(names)
    total = sum(n.channels for n in names)
    return p.resized(f"torch.cat([{', '.join(map(str, names))}], {at})", x, total)


@construct("map", "tokens")
def squeeze_excite(p: Program, x: Value) -> Value:
    """Channels gated by their pooled selves."""
    dims = tuple(range(1, 1 + x.rank)) if x.kind == "tokens" else tuple(range(2, 2 + x.rank))
    pooled = p.let(f"{x}.{p.some('mean', 'mean', 'amax', 'sum')}({dims})", "flat", x.channels)
    gate = p.project(p.activate(p.project(pooled, p.width())), x.channels)
    act = p.some("torch.sigmoid", "F.hardsigmoid", "torch.tanh")
    view = "[:, None]" if x.kind == "tokens" else "[(...,) + (None,) * " + str(x.rank) + "]"
    return p.like(f"{x} * {act}({gate}){view}", x)


@construct("map", "tokens")
def split_attention(p: Program, x: Value) -> Value:
    """A softmax over branches weighs their sum."""
    width, branches = p.width(), p.some(2, 3)
    at = axis(x)
    y = p.project(x, branches * width)
    parts = p.say(f"{y}.unflatten({at}, ({branches}, {width}))")
    form = p.some("softmax", "sum", "max", "matmul")
    if form == "softmax":
        return p.resized(f"({parts} * {parts}.softmax({at})).sum({at})", x, width)
    if form == "max":
        return p.resized(f"{parts}.amax({at})", x, width)
    return p.resized(f"{parts}.sum({at})", x, width)


@construct("map")
def film(p: Program, x: Value) -> Value:
    """Scale and shift per channel, from a vector of the pool or the pooled value itself."""
    flats = [v for v in p.pool if v.kind == "flat"]
    z = p.draw.choice(flats) if flats else p.let(f"{x}.flatten(2).mean(-1)", "flat", x.channels)
    y = p.project(z, 2 * x.channels)
    scale, shift = p.say(f"{y}[:, :{x.channels}]"), p.say(f"{y}[:, {x.channels}:]")
    view = "".join(["[:, :", ", None" * x.rank, "]"])
    return p.like(f"{x} * (1 + {scale}{view}) + {shift}{view}", x)
