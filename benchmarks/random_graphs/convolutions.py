"""Convolutions of every kind."""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.program import Program, Value


@construct(weight=4)
def projection(p: Program, x: Value) -> Value:
    """A convolution or linear layer, a norm perhaps, an activation perhaps."""
    y = p.project(x, p.width(), p.some(1, 3))
    if x.kind == "map" and p.draw.random() < 0.5:
        y = p.like(f"{p.layer(f'BatchNorm{x.rank}d({y.channels})')}({y})", y)
    return p.activate(y) if p.draw.random() < 0.8 else y


@construct(weight=2)
def residual(p: Program, x: Value) -> Value:
    """x + f(x)."""
    y = p.project(p.activate(p.project(x, p.width(), p.some(1, 3))), x.channels)
    return p.like(p.some(f"{x} + {y}", f"torch.add({y}, {x})", f"{y}.add({x}, alpha=0.5)"), x)


@construct("map")
def depthwise(p: Program, x: Value) -> Value:
    """A depthwise convolution with a channel multiplier, then a pointwise one."""
    y = p.project(x, x.channels * p.some(1, 1, 2), p.some(1, 3), groups=x.channels)
    return p.project(p.activate(y), p.width()) if p.draw.random() < 0.7 else p.activate(y)


@construct("map")
def grouped(p: Program, x: Value) -> Value:
    """Grouped convolutions, with a shuffle between them perhaps."""
    groups = p.some(2, 2, 3, 4)
    y = p.activate(p.project(x, p.width(groups)))
    y = p.activate(p.project(y, p.width(groups), p.some(1, 3), groups=groups))
    shuffle = p.some("", "view", "layer")
    if shuffle == "layer" and x.rank == 2:
        y = p.like(f"{p.layer(f'ChannelShuffle({groups})')}({y})", y)
    elif shuffle:
        sizes = ", ".join(map(str, y.sizes))
        view = f"{y}.view({y}.shape[0], {groups}, {y.channels // groups}, {sizes})"
        y = p.like(f"{view}.transpose(1, 2).flatten(1, 2)", y)
    return p.project(y, p.width(groups), groups=groups) if p.draw.random() < 0.7 else y


@construct("map", least=2)
def strided(p: Program, x: Value) -> Value:
    """A convolution that halves the size."""
    y = p.layer(f"Conv{x.rank}d({x.channels}, {(width := p.width())}, 2, stride=2)")
    return p.let(f"{y}({x})", "map", width, *(s // 2 for s in x.sizes))


@construct("map", least=3)
def dilated(p: Program, x: Value) -> Value:
    """A dilated convolution."""
    y = p.layer(f"Conv{x.rank}d({x.channels}, {(width := p.width())}, 3, padding=2, dilation=2)")
    return p.resized(f"{y}({x})", x, width)


@construct("map", ranks=(1, 2, 3))
def padded_modes(p: Program, x: Value) -> Value | None:
    """A convolution whose padding is not zeros."""
    if min(x.sizes) < 2:
        return None
    mode = p.some("replicate", "circular", "reflect")
    width = p.width()
    y = p.layer(f"Conv{x.rank}d({x.channels}, {width}, 3, padding=1, padding_mode='{mode}')")
    return p.resized(f"{y}({x})", x, width)


@construct("map")
def transposed(p: Program, x: Value) -> Value:
    """A transposed convolution and a strided one that brings the size back."""
    groups = p.some(1, 1, 2, 3)
    y = p.activate(p.project(x, p.width(groups))) if groups > 1 else x
    width = p.width(groups)
    up = p.layer(f"ConvTranspose{x.rank}d({y.channels}, {width}, 2, 2, groups={groups})")
    y = p.activate(p.let(f"{up}({y})", "map", width, *(2 * s for s in x.sizes)))
    down = p.layer(f"Conv{x.rank}d({width}, {(out := p.width())}, 2, 2)")
    return p.resized(f"{down}({y})", x, out)


@construct("map")
def functional_convolution(p: Program, x: Value) -> Value:
    """A convolution whose weight is the network's own, or computed from it."""
    width, ones = p.width(), (1,) * x.rank
    weight = p.parameter(width, x.channels, *ones)
    computed = p.some(
        weight,
        f"{weight} * {p.parameter(width, 1, *ones)}",
        f"{weight} / {weight}.flatten(1).norm(dim=1).view(-1, 1{', 1' * x.rank})",
        f"{weight} - {weight}.mean()",
    )
    bias = p.some("None", p.parameter(width))
    return p.resized(f"F.conv{x.rank}d({x}, {computed}, {bias})", x, width)


@construct(weight=2)
def flat_graph(p: Program, x: Value) -> Value:
    """A layer, a norm over it and another layer by functions alone, over tensors of the network's
    own.
    """
    width, out, ones = p.width(), p.width(), (1,) * x.rank if x.kind == "map" else ()
    call = f"F.conv{x.rank}d" if ones else "F.linear"
    first, second = (p.parameter(*sizes, *ones) for sizes in ((width, x.channels), (out, width)))
    biases = [p.some("None", p.parameter(count)) for count in (width, out)]
    y = p.resized(f"{call}({x}, {first}, {biases[0]})", x, width)
    vectors = f"{p.parameter(width)}, {p.parameter(width)}"
    if x.kind != "tokens":
        mean = p.buffer(f"torch.zeros({width})")
        variance = p.buffer(f"torch.ones({width})", "_running_var")
        norm = p.some(
            f"F.batch_norm({y}, {mean}, {variance}, {vectors}, self.training)",
            f"F.batch_norm({y}, {mean}, {variance}, {vectors})",
            f"F.group_norm({y}, {width}, {vectors})" if x.kind == "map" else str(y),
        )
    else:
        norm = p.some(f"F.layer_norm({y}, ({width},), {vectors})", str(y))
    y = p.activate(p.like(norm, y))
    return p.resized(f"{call}({y}, {second}, {biases[1]})", x, out)


@construct()
def shared(p: Program, x: Value) -> Value:
    """One layer called twice: one after the other, or side by side."""
    y = p.project(x, x.channels, bias=True)
    again = p.lines[-1].partition(" = ")[2].partition("(")[0]
    if p.draw.random() < 0.5:
        z = p.activate(y)
        return p.like(f"{again}({z})", z)
    other = p.matching(x)
    z = p.like(f"{again}({other})", y)
    if p.draw.random() < 0.5:
        return p.like(f"{y} * {z}", y)
    dim = "-1" if x.kind == "tokens" else "1"
    return p.resized(f"torch.cat([{y}, {z}], {dim})", y, 2 * x.channels)


@construct("map", ranks=(2,))
def pixel_shuffle(p: Program, x: Value) -> Value:
    """Channels become pixels, and pooling or unshuffling brings the size back."""
    y = p.project(x, p.width(4))
    y = p.let(f"F.pixel_shuffle({y}, 2)", "map", y.channels // 4, *(2 * s for s in x.sizes))
    if p.draw.random() < 0.5:
        return p.let(f"F.max_pool2d({y}, 2)", "map", y.channels, *x.sizes)
    y = p.activate(p.project(y, p.width()))
    return p.project(
        p.let(f"F.pixel_unshuffle({y}, 2)", "map", 4 * y.channels, *x.sizes), p.width()
    )


@construct("map", ranks=(2,))
def asymmetric(p: Program, x: Value) -> Value:
    """A 1 x 3 and a 3 x 1 convolution."""
    width = p.width()
    y = p.layer(f"Conv2d({x.channels}, {width}, (1, 3), padding=(0, 1))")
    y2 = p.resized(f"{y}({x})", x, width)
    z = p.layer(f"Conv2d({width}, {(out := p.width())}, (3, 1), padding='same')")
    return p.resized(f"{z}({y2})", x, out)


@construct("map", ranks=(1,))
def causal(p: Program, x: Value) -> Value:
    """A causal convolution: padded on the left only, gated."""
    width = p.width()
    y = p.layer(f"Conv1d({x.channels}, {2 * width}, 3)")
    z = p.resized(f"{y}(F.pad({x}, (2, 0)))", x, 2 * width)
    a, b = p.say(f"{z}[:, :{width}]"), p.say(f"{z}[:, {width}:]")
    return p.resized(f"torch.tanh({a}) * torch.sigmoid({b})", x, width)
