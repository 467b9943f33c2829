"""Elementwise operators, constants and norms."""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.program import ACTIVATIONS, Program, Value


@construct()
def activation(p: Program, x: Value) -> Value:
    """Any activation."""
    bounded = f"{x}.clamp(-3, 3)" if p.draw.random() < 0.3 else f"{x}"
    name = p.draw.choice(ACTIVATIONS)
    return p.like(f"{name}({f'{x}.clamp(-3, 3)' if name == 'torch.exp' else bounded})", x)


@construct()
def constants(p: Program, x: Value) -> Value:
    """Numbers and inline constants that broadcast against every channel."""
    at = "tokens" if x.kind == "tokens" else "map"
    ones = ", ".join(["1"] * (x.rank + 2))
    last = x.shape[-1] if at == "map" and x.rank else 1
    forms = (
        f"{x} * 0.7", f"0.3 - {x}", f"{x} + torch.full(({ones}), 0.4, dtype={x}.dtype)",
        f"{x} / 1.5", f"{x}.masked_fill({x} > 1, 0.5)", f"{x}.clamp(-1.5, 1.5)",
        f"{x} * torch.tensor(0.7, dtype={x}.dtype)", f"{x} ** 2", f"{x}.pow(3) * 0.1",
        f"torch.where({x} > 0, {x}, torch.zeros_like({x}))", f"{x} * ({x} > 0)",
        f"{x} * torch.arange(1, {last + 1}, dtype={x}.dtype)", f"torch.clamp_min({x}, -0.5)",
        f"F.dropout({x}, 0.5, self.training)", f"{x}.to({x}.dtype) + 0", f"{x}.contiguous() + 0.1",
        f"{x} + torch.rand_like({x}) * 0", f"torch.rsub({x}, 1)", f"F.threshold({x}, 0.1, 0.2)",
        f"F.hardtanh({x}, -2, 2)", f"torch.nan_to_num({x}) * 2", f"{x}.detach() + 1",
        f"torch.sign({x}) * {x}", f"F.softshrink({x}, 0.1)", f"{x}.double().to({x}.dtype)",
    )  # fmt: skip
    return p.like(p.draw.choice(forms), x)


@construct()
def affine(p: Program, x: Value) -> Value:
    """Parameters and buffers per channel, per position or for all."""
    ones = ", ".join(["1"] * x.rank)
    channel = (x.channels,) if x.kind != "map" else (x.channels, *[1] * x.rank)
    weight = p.parameter(*channel)
    if p.draw.random() < 0.3:
        weight = p.buffer(f"torch.rand{channel} + 0.5")
    forms = [f"{x} * {weight}", f"{x} + {weight}", f"{weight} * {x} - {weight}"]
    if x.kind == "map":
        vector = p.parameter(x.channels)
        forms.append(f"{x} * {vector}.view(1, -1{', ' + ones if ones else ''})")
        forms.append(f"{x} + {vector}.view(-1{', ' + ones if ones else ''}).expand_as({x})")
    if x.rank:
        forms.append(f"{x} + {p.parameter(*x.shape)}")
    return p.like(p.draw.choice(forms), x)


@construct()
def slopes(p: Program, x: Value) -> Value:
    """PReLU: one slope, or one per entry of axis 1."""
    count = p.some(1, x.shape[0])
    return p.like(f"{p.layer(f'PReLU({count})')}({x})", x)


@construct()
def in_place(p: Program, x: Value) -> Value:
    """Operators that change a new tensor in place."""
    y = p.project(x, p.width())
    forms = (
        f"F.relu({y}, inplace=True)", f"{y}.mul_(0.5)", f"{y}.add_(1)", f"{y}.clamp_(-2, 2)",
        f"{p.layer('ReLU(inplace=True)')}({y})", f"{p.layer('SiLU(inplace=True)')}({y})",
        f"{p.layer('Hardtanh(-2, 2, inplace=True)')}({y})", f"F.elu({y}, inplace=True)",
    )  # fmt: skip
    if p.draw.random() < 0.3:
        p.lines.append(f"{y} += {p.project(x, y.channels)}")
        return p.like(f"{y} * 1", y)
    return p.like(p.draw.choice(forms), y)


@construct("map", weight=1.5)
def channel_norm(p: Program, x: Value) -> Value:
    """Norms that work on every channel for itself, or in groups."""
    c, groups = x.channels, 2 if x.channels % 2 == 0 else 1
    kinds = [f"BatchNorm{x.rank}d({c})", f"BatchNorm{x.rank}d({c}, affine=False)"]
    if all(s > 1 for s in x.sizes):
        kinds += [
            f"GroupNorm({c}, {c})", f"GroupNorm({groups}, {c})", f"GroupNorm(1, {c})",
            f"InstanceNorm{x.rank}d({c}, affine=True)", f"InstanceNorm{x.rank}d({c})",
            f"GroupNorm({c}, {c}, affine=False)",
            f"InstanceNorm{x.rank}d({c}, affine=True, track_running_stats=True)",
        ]  # fmt: skip
    if x.rank == 2:
        kinds.append("LocalResponseNorm(2)")
    return p.like(f"{p.layer(p.draw.choice(kinds))}({x})", x)


@construct("tokens", "flat")
def vector_norm(p: Program, x: Value) -> Value:
    """Norms over the last axis: they mix the channels."""
    c = x.channels
    forms = [
        f"{p.layer(p.some(f'LayerNorm({c})', f'RMSNorm({c})'))}({x})",
        f"F.normalize({x}, dim=-1)", f"F.softmax({x}, -1)", f"F.log_softmax({x}, -1)",
        f"{x} - {x}.mean(-1, keepdim=True)", f"{x} / (1 + {x}.abs().amax(-1, keepdim=True))",
        f"{x} * torch.rsqrt({x}.square().mean(-1, keepdim=True) + 1)",
    ]  # fmt: skip
    if x.kind == "flat":
        forms.append(f"{p.layer(f'BatchNorm1d({c})')}({x})")
    else:
        forms += [
            f"F.softmax({x}, 1)", f"{x}.cumsum(1) * 0.2", f"{x} - {x}.mean(1, keepdim=True)",
            f"{p.layer(f'BatchNorm1d({c})')}({x}.transpose(1, 2)).transpose(1, 2)",
        ]  # fmt: skip
    return p.like(p.draw.choice(forms), x)


@construct("map")
def last_norm(p: Program, x: Value) -> Value:
    """A norm over the channels of a map: moved last and back, or by hand."""
    there = "(0, " + ", ".join(map(str, range(2, x.rank + 2))) + ", 1)"
    back = f"(0, {x.rank + 1}, " + ", ".join(map(str, range(1, x.rank + 1))) + ")"
    forms = (
        f"{p.layer(f'LayerNorm({x.channels})')}({x}.permute{there}).permute{back}",
        f"F.normalize({x}, dim=1)",
        f"{x} - {x}.mean(1, keepdim=True)",
        f"{p.layer(f'LayerNorm({list(x.shape)})')}({x})",
        f"{p.layer(f'LayerNorm({list(x.sizes)})')}({x})",
        f"{x} / (1 + {x}.square().sum(1, keepdim=True)).sqrt()",
    )
    return p.like(p.draw.choice(forms), x)
