"""Values that change how they lie: reshapes, permutations, parts, pooling, resampling, indexing."""

from math import prod

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.joining import axis
from benchmarks.random_graphs.program import Program, Value


@construct("map", weight=2)
def to_tokens(p: Program, x: Value) -> Value:
    """Positions become tokens."""
    count = prod(x.sizes)
    last = "(0, " + ", ".join(map(str, range(2, x.rank + 2))) + ", 1)"
    forms = (
        f"{x}.flatten(2).transpose(1, 2)",
        f"{x}.permute{last}.reshape({x}.shape[0], -1, {x.channels})",
        f"{x}.reshape({x}.shape[0], {x.channels}, {count}).permute(0, 2, 1)",
        f"{x}.view({x}.size(0), {x.channels}, -1).movedim(1, 2)",
        f"{x}.flatten(2).mT",
    )
    return p.let(p.draw.choice(forms), "tokens", count, x.channels)


@construct("tokens", weight=2)
def to_map(p: Program, x: Value) -> Value:
    """Tokens become positions of a map, of two dimensions where they make a square."""
    count, side = x.shape[0], round(x.shape[0] ** 0.5)
    if side * side == count and p.draw.random() < 0.8:
        shape = f"({x}.shape[0], {p.some(x.channels, -1)}, {side}, {side})"
        return p.let(f"{x}.transpose(1, 2).reshape{shape}", "map", x.channels, side, side)
    return p.let(f"{x}.transpose(1, 2)", "map", x.channels, count)


@construct("map", "tokens", weight=1.5)
def flattened(p: Program, x: Value) -> Value | None:
    """Every position of every channel in one vector."""
    if (total := prod(x.shape)) > 600:
        return None
    form = p.some(".flatten(1)", f".reshape({x}.shape[0], -1)", f".reshape(-1, {total})")
    return p.let(f"{x}{form}", "flat", total)


@construct("map", "tokens", weight=1.5)
def pooled(p: Program, x: Value) -> Value:
    """One number per channel."""
    if x.kind == "tokens":
        how = p.some(".mean(1)", ".amax(1)", "[:, 0]", "[:, -1]", ".sum(1)", ".std(1)")
        how = ".mean(1)" if how == ".std(1)" and x.shape[0] < 2 else how
        return p.let(f"{x}{how}", "flat", x.channels)
    dims = tuple(range(2, x.rank + 2))
    layer = p.layer(f"Adaptive{p.some('Avg', 'Max')}Pool{x.rank}d(1)")
    forms = (
        f"{layer}({x}).flatten(1)", f"{x}.mean({dims})", f"{x}.amax({dims})",
        f"{x}.flatten(2).logsumexp(-1)", f"{x}.flatten(2).norm(dim=-1)",
        f"torch.mean({x}, {dims}, keepdim=True).flatten(1)", f"{x}.flatten(2).max(-1).values",
        f"{layer}({x})" + ".squeeze(-1)" * x.rank,
    )  # fmt: skip
    return p.let(p.draw.choice(forms), "flat", x.channels)


@construct("flat")
def spread(p: Program, x: Value) -> Value:
    """A vector at every position of a map, or cut into tokens."""
    if p.draw.random() < 0.5:
        form = p.some(f"{x}[:, :, None, None].expand(-1, -1, 3, 3)",
                      f"{x}.view({x}.shape[0], -1, 1, 1).repeat(1, 1, 3, 3)")  # fmt: skip
        return p.let(form, "map", x.channels, 3, 3)
    y = p.project(x, p.width(4))
    if p.draw.random() < 0.5:
        return p.let(f"{y}.view({y}.shape[0], 4, -1)", "tokens", 4, y.channels // 4)
    return p.let(f"{y}.unflatten(1, (-1, 2, 2))", "map", y.channels // 4, 2, 2)


@construct("map", least=2)
def pooling(p: Program, x: Value) -> Value:
    """A pool that halves the size, or keeps it."""
    half = tuple(s // 2 for s in x.sizes)
    forms = [(f"F.max_pool{x.rank}d({x}, 2)", half), (f"F.avg_pool{x.rank}d({x}, 2)", half),
             (f"F.adaptive_avg_pool{x.rank}d({x}, 2)", (2,) * x.rank),
             (f"F.adaptive_max_pool{x.rank}d({x}, 2)", (2,) * x.rank),
             (f"F.max_pool{x.rank}d({x}, 3, 1, 1)", x.sizes),
             (f"F.avg_pool{x.rank}d({x}, 3, 1, 1)", x.sizes)]  # fmt: skip
    if x.rank < 3:
        forms.append((f"F.lp_pool{x.rank}d({x}.abs() + 0.1, 2, 2)", half))
    text, sizes = p.draw.choice(forms)
    return p.let(text, "map", x.channels, *sizes)


@construct("map")
def resampled(p: Program, x: Value) -> Value | None:
    """Interpolation to another size."""
    smooth = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.rank]
    if max(x.sizes) > 6:
        return None
    mode = p.some(
        "'nearest'", f"'{smooth}', align_corners=False", f"'{smooth}', align_corners=True"
    )
    if x.rank == 2 and p.draw.random() < 0.2:
        mode = "'bicubic'"
    if p.draw.random() < 0.5:
        return p.let(f"F.interpolate({x}, scale_factor=2, mode={mode})", "map", x.channels,
                     *(2 * s for s in x.sizes))  # fmt: skip
    sizes = tuple(s + 1 for s in x.sizes)
    return p.let(f"F.interpolate({x}, size={sizes}, mode={mode})", "map", x.channels, *sizes)


@construct("map", "tokens", weight=1.5)
def moved(p: Program, x: Value) -> Value:
    """Positions change places; channels stay in theirs."""
    dim = 1 if x.kind == "tokens" else p.draw.randint(2, x.rank + 1)
    size = x.shape[dim - 1]
    index = list(range(size))
    p.draw.shuffle(index)
    table = p.buffer(f"torch.tensor({index})")
    every = ":, " * dim
    forms = (
        f"{x}.flip({dim})", f"torch.roll({x}, 1, {dim})", f"{x}.index_select({dim}, {table})",
        f"{x}[{every}{index}]", f"{x}[{every}{table}]",
        f"{x}.transpose({dim}, -1).transpose({dim}, -1)",
        f"torch.cat([{x}.narrow({dim}, {size - 1}, 1), {x}.narrow({dim}, 0, {size - 1})], {dim})",
        f"torch.stack({x}.unbind({dim}), {dim})", f"{x}.unsqueeze({dim}).squeeze({dim})",
        f"{x}.swapaxes({dim}, 1).swapaxes({dim}, 1)", f"torch.cat({x}.split(1, {dim}), {dim})",
        f"{x}.movedim(1, -1).movedim(-1, 1)", f"{x}.cumsum({dim}) * 0.3",
        f"{x}.softmax({dim})", f"{x}.sort({dim}).values",
        f"{x}.unsqueeze(1).expand(-1, 2, *{x}.shape[1:]).sum(1)",
    )  # fmt: skip
    return p.like(p.draw.choice(forms), x)


@construct("map", "tokens")
def resized_positions(p: Program, x: Value) -> Value:
    """Positions are added or cut away."""
    dim = 1 if x.kind == "tokens" else p.draw.randint(2, x.rank + 1)
    size = x.shape[dim - 1]
    every = ":, " * dim
    zeros = f"torch.zeros_like({x}.narrow({dim}, 0, 1))"
    forms = [
        (f"torch.cat([{x}, {x}], {dim})", 2 * size),
        (f"{x}.repeat_interleave(2, {dim})", 2 * size),
        (f"torch.cat([{x}, {zeros}], {dim})", size + 1),
    ]
    if size > 1:
        forms += [(f"{x}[{every}1:]", size - 1), (f"{x}.narrow({dim}, 0, 1)", 1),
                  (f"{x}[{every}::2]", (size + 1) // 2), (f"{x}[{every}:-1]", size - 1),
                  (f"{x}.sum({dim}, keepdim=True)", 1),
                  (f"{x}[{every}1:] - {x}[{every}:-1]", size - 1)]  # fmt: skip
    if x.kind == "map":
        at = 2 * (x.rank + 1 - dim)
        pad = tuple(1 if i in (at, at + 1) else 0 for i in range(2 * x.rank))
        forms.append((f"F.pad({x}, {pad})", size + 2))
        if x.rank < 3 and size > 1:
            forms.append((f"F.pad({x}, {pad}, mode='{p.some('reflect', 'replicate')}')", size + 2))
    text, new = p.draw.choice(forms)
    shape = list(x.shape)
    shape[dim - 1] = new
    return p.let(text, x.kind, *shape)


@construct(weight=2)
def channel_moves(p: Program, x: Value) -> Value | None:
    """Channels are repeated, dropped, reordered or cut."""
    at, c = axis(x), x.channels
    order = list(range(c))
    p.draw.shuffle(order)
    some = sorted(p.draw.sample(range(c), max(1, c - 1)))
    table = p.buffer(f"torch.tensor({p.some(order, some)})")
    picked = len(numbers_of(p.layers[-1]))
    every = ":, " * at
    forms = [
        (f"{x}.index_select({at}, {table})", picked), (f"{x}[{every}{table}]", picked),
        (f"{x}.repeat_interleave(2, {at})", 2 * c), (f"{x}.flip({at})", c),
        (f"{x}.repeat(1{', 1' * (at - 1)}, 2{', 1' * (x.rank + 1 - at)})", 2 * c),
        (f"torch.cat([{x}, -{x}], {at})", 2 * c), (f"torch.roll({x}, 1, {at})", c),
        (f"torch.cat({x}.unsqueeze({at}).unbind({at}), {at})", c),
        (f"{x}[{every}{order}]", c), (f"{x}.unsqueeze({at}).flatten({at}, {at + 1})", c),
        (f"torch.stack([{x}, {x} * 2], {at + 1}).flatten({at}, {at + 1})", 2 * c),
        (f"torch.stack([{x}, {x} * 2], {at}).flatten({at}, {at + 1})", 2 * c),
    ]  # fmt: skip
    if c > 1:
        forms += [(f"{x}[{every}1:]", c - 1), (f"{x}[{every}::2]", (c + 1) // 2),
                  (f"{x}[{every}:-1]", c - 1), (f"{x}.narrow({at}, 0, {c - 1})", c - 1),
                  (f"{x}.narrow({at}, 1, {c - 1})", c - 1),
                  (f"torch.cat([{x}[{every}:1], {x}[{every}1:]], {at})", c),
                  (f"{x}.select({at}, 0).unsqueeze({at})", 1)]  # fmt: skip
    text, channels = p.draw.choice(forms)
    return p.resized(text, x, min(channels, 2 * c)) if channels <= 48 else None


def numbers_of(layer: str) -> list[int]:
    """The numbers of a buffer that was just written."""
    inside = layer.partition("[")[2].partition("]")[0]
    return [int(number) for number in inside.split(",")]


@construct()
def regrouped(p: Program, x: Value) -> Value:
    """Channels are laid out as blocks, one of which is worked on, and as one axis again."""
    blocks, at = p.some(2, 3), axis(x)
    y = p.project(x, p.width(blocks))
    each = y.channels // blocks
    view = p.say(f"{y}.unflatten({at}, ({p.some(blocks, -1)}, {each}))")
    scale = p.parameter(blocks, 1, *[1] * (x.rank if x.kind != "tokens" else 0))
    forms = (
        f"({view} * {scale}).flatten({at}, {at + 1})",
        f"{view}.transpose({at}, {at + 1}).flatten({at}, {at + 1})",
        f"torch.cat({view}.unbind({at}), {at})",
        f"{view}.flip({at}).flatten({at}, {at + 1})",
        f"({view} - {view}.mean({at}, keepdim=True)).flatten({at}, {at + 1})",
        f"({view} * {view}.softmax({at})).flatten({at}, {at + 1})",
        f"F.normalize({view}, dim={at + 1}).flatten({at}, {at + 1})",
    )
    return p.like(p.draw.choice(forms), y)


@construct("map", ranks=(2,), least=4)
def windows(p: Program, x: Value) -> Value | None:
    """Windows of two by two: a layer inside each, and the map again."""
    c, (height, width) = x.channels, x.sizes
    if height % 2 or width % 2:
        return None
    h, w = height // 2, width // 2
    view = f"{x}.view({x}.shape[0], {c}, {h}, 2, {w}, 2).permute(0, 2, 4, 3, 5, 1)"
    y = p.let(f"{view}.reshape(-1, 4, {c})", "tokens", 4, c)
    y = p.activate(p.project(y, p.width()))
    back = f"{y}.view(-1, {h}, {w}, 2, 2, {y.channels}).permute(0, 5, 1, 3, 2, 4)"
    return p.let(
        f"{back}.reshape(-1, {y.channels}, {height}, {width})", "map", y.channels, *x.sizes
    )


@construct("map", ranks=(2,), least=2)
def space_to_depth(p: Program, x: Value) -> Value | None:
    """Four neighbors become channels: by slices, or by a reshape."""
    if any(s % 2 for s in x.sizes):
        return None
    parts = ", ".join(f"{x}[:, :, {i}::2, {j}::2]" for i in (0, 1) for j in (0, 1))
    sizes = tuple(s // 2 for s in x.sizes)
    shape = f"{x}.shape[0], {4 * x.channels}, {sizes[0]}, {sizes[1]}"
    form = p.some(
        f"torch.cat([{parts}], 1)",
        f"F.pixel_unshuffle({x}, 2)",
        f"F.unfold({x}, 2, stride=2).view({shape})",
    )
    return p.let(form, "map", 4 * x.channels, *sizes) if 4 * x.channels <= 48 else None


@construct()
def computed_indices(p: Program, x: Value) -> Value:
    """Positions or channels picked by what the network computes."""
    if x.kind == "map":
        gate = p.project(x, 1)
        return p.like(f"{x} * torch.sigmoid({gate}.amax(1, keepdim=True))", x)
    if x.kind == "flat":
        best = p.say(f"{p.project(x, 2)}.argmax(1, keepdim=True)")
        y = p.project(x, p.width())
        return p.like(f"{y} * ({best} == 0)", y)
    scores, shape = p.project(x, 1), f"(-1, -1, {x.channels})"
    order = p.say(f"{scores}.squeeze(-1).argsort(1)")
    return p.like(f"{x}.gather(1, {order}[:, :, None].expand{shape})", x)
