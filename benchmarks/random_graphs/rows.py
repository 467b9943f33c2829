"""Constructs on rows: steps of a loop, places that a table names, frequencies, distances."""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.program import Program, Value


@construct("tokens")
def looped(p: Program, x: Value) -> Value:
    """A cell, or layers of the model's own, that run step by step from a state of one number."""
    width, kind = p.width(), p.some("GRUCell", "LSTMCell", "RNNCell", "own")
    state = p.say(p.some(f"{x}.new_zeros({x}.shape[0], {width})",
                         f"torch.zeros({x}.shape[0], {width}, dtype={x}.dtype)",
                         f"{x}.new_full(({x}.shape[0], {width}), 0.5)"))  # fmt: skip
    if kind == "own":
        read, recur = (p.layer(f"Linear({n}, {width})") for n in (x.channels, width))
        for step in range(x.shape[0]):
            state = p.say(f"torch.tanh({read}({x}[:, {step}]) + {recur}({state}))")
        return p.let(state, "flat", width)
    cell = p.layer(f"{kind}({x.channels}, {width}, bias={p.some(True, True, False)})")
    for step in range(x.shape[0]):
        given = f"({state}, {state})" if kind == "LSTMCell" and step == 0 else state
        state = p.say(f"{cell}({x}[:, {step}], {given})")
    return p.let(f"{state}[0]" if kind == "LSTMCell" else f"1.0 * {state}", "flat", width)


@construct("tokens")
def placed(p: Program, x: Value) -> Value:
    """Rows that are put where a table says, or taken from there."""
    size = x.shape[0]
    table = p.buffer(f"torch.tensor({[p.draw.randrange(size) for _ in range(size)]})")
    y = p.matching(x)
    wide = f"{table}[None, :, None].expand({x}.shape[0], -1, {x}.shape[2])"
    forms = (
        f"{x}.index_add(1, {table}, {y})", f"torch.zeros_like({x}).index_add(1, {table}, {y})",
        f"{x}.index_copy(1, {table}[:1], {y}[:, :1])", f"{x}.index_fill(1, {table}[:1], 0.5)",
        f"{x}.scatter_add(1, {wide}, {y})", f"{x}.scatter_reduce(1, {wide}, {y}, 'amax')",
        f"{x}.gather(1, {wide}) + {y}",
        f"{x}.new_zeros({x}.shape[0], {size}, {x.channels}).index_add(1, {table}, {y})",
    )  # fmt: skip
    return p.like(p.draw.choice(forms), x)


@construct("tokens", "map")
def frequencies(p: Program, x: Value) -> Value:
    """A filter in the frequencies along positions."""
    dim = 1 if x.kind == "tokens" else x.rank + 1
    size = x.shape[dim - 1]
    y = p.say(f"{x}.double()")  # half-precision transforms are not for every device
    forms = (
        f"torch.fft.irfft(torch.fft.rfft({y}, dim={dim}) * 0.5, n={size}, dim={dim})",
        f"torch.fft.fft({y}, dim={dim}).real + {y}",
        f"torch.view_as_real(torch.fft.fft({y}, dim={dim})).sum(-1)",
        f"torch.fft.rfft({y}, n={2 * size - 2 or 1}, dim={dim}).abs()",
    )
    text = p.draw.choice(forms[: 4 if size > 1 else 3])
    return p.like(f"({text}).to({x}.dtype)", x)


@construct("tokens", weight=0.3)
def distances(p: Program, x: Value) -> Value:
    """Rows weighed by how near they are."""
    y = p.project(x, p.width())
    z = p.project(x, y.channels)
    near = p.some(f"torch.cdist({y}, {z})", f"torch.cdist({y}, {y})",
                  f"F.cosine_similarity({y}[:, :, None], {z}[:, None], dim=-1)")  # fmt: skip
    return p.like(f"torch.softmax(-{near}, -1) @ {x}", x)


@construct("tokens", "map", "flat", weight=0.2)
def composite(p: Program, x: Value) -> Value:
    """Calls that torch writes as others; drawn rarely, for torch.export has to trace them."""
    y = p.matching(x)
    forms = [f"1 - {x}", f"torch.rsub({x}, {y})", f"sum(torch.broadcast_tensors({x}, {y}))"]
    if x.kind == "flat":
        return p.let(f"torch.hstack([{x}, {y}])", "flat", 2 * x.channels)
    if x.kind == "tokens":
        return p.let(f"torch.hstack([{x}, {y}])", "tokens", 2 * x.shape[0], x.channels)
    return p.like(p.draw.choice(forms), x)
