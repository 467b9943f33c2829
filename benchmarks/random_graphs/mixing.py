"""Products: matrices, einsum, attention and recurrent layers."""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.program import Program, Value


@construct("tokens", "flat")
def matrices(p: Program, x: Value) -> Value:
    """A product with a parameter, written otherwise than as a layer."""
    width = p.width()
    rows, columns = p.parameter(width, x.channels), p.parameter(x.channels, width)
    bias = p.parameter(width)
    forms = [
        f"{x} @ {columns}", f"torch.matmul({x}, {rows}.t())", f"F.linear({x}, {rows})",
        f"F.linear({x}, {rows}, {bias})", f"{x} @ {rows}.T + {bias}",
        f"({x}.unsqueeze(-2) @ {columns}).squeeze(-2)",
    ]  # fmt: skip
    if x.kind == "flat":
        forms += [f"torch.addmm({bias}, {x}, {columns})", f"torch.mm({x}, {columns})",
                  f"torch.einsum('nc,cd->nd', {x}, {columns})"]  # fmt: skip
    else:
        forms += [f"torch.einsum('ntc,cd->ntd', {x}, {columns})",
                  f"torch.einsum('ntc,dc->ntd', {x}, {rows})"]  # fmt: skip
    return p.resized(p.draw.choice(forms), x, width)


@construct("map", ranks=(2,))
def map_einsum(p: Program, x: Value) -> Value:
    """A pointwise convolution as an einsum, or a product over the positions."""
    if p.draw.random() < 0.7:
        weight = p.parameter(width := p.width(), x.channels)
        return p.resized(f"torch.einsum('nchw,dc->ndhw', {x}, {weight})", x, width)
    size = x.sizes[1]
    weight = p.parameter(size, size)
    return p.like(p.some(f"{x} @ {weight}", f"torch.einsum('nchw,wv->nchv', {x}, {weight})"), x)


@construct("tokens", "flat")
def tied(p: Program, x: Value) -> Value:
    """A weight forth and its transpose back."""
    weight = p.parameter(width := p.width(), x.channels)
    y = p.activate(p.resized(f"F.linear({x}, {weight})", x, width))
    return p.resized(f"{y} @ {weight}", x, x.channels)


@construct("tokens")
def token_mixing(p: Program, x: Value) -> Value:
    """A layer across the tokens, between transposes."""
    count = x.shape[0]
    first, second = (
        p.layer(f"Linear({count}, {(w := p.width())})"),
        p.layer(f"Linear({w}, {count})"),
    )
    y = p.say(f"{second}(F.gelu({first}({x}.transpose(1, 2)))).transpose(1, 2)")
    return p.like(p.some(y, f"{x} + {y}"), x)


@construct("tokens", weight=2)
def feed_forward(p: Program, x: Value) -> Value:
    """A transformer's second half: norm, wider, back, added."""
    norm = p.layer(p.some(f"LayerNorm({x.channels})", f"RMSNorm({x.channels})", "Identity()"))
    y = p.activate(p.project(p.like(f"{norm}({x})", x), 2 * p.width()))
    if p.draw.random() < 0.4:
        gate = p.project(x, y.channels)
        y = p.like(f"{y} * {gate}", y)
    return p.like(f"{x} + {p.project(y, x.channels)}", x)


def heads_of(x: Value, count: int, each: int) -> str:
    return f"{x}.view({x}.shape[0], {x.shape[0]}, {count}, {each}).transpose(1, 2)"


def attend(p: Program, q: str, k: str, v: str, each: int, scores: str) -> str:
    """Attention by the fused operator or by hand."""
    plain = f"({q} @ {k}.transpose(-2, -1) * {each**-0.5:.3f})"
    if scores:
        return p.say(f"({plain} + {scores}).softmax(-1) @ {v}")
    return p.say(
        p.some(
            f"F.scaled_dot_product_attention({q}, {k}, {v})",
            f"F.scaled_dot_product_attention({q}, {k}, {v}, scale=0.5)",
            f"F.softmax({plain}, -1) @ {v}",
            f"torch.einsum('nhij,nhjd->nhid', {plain}.softmax(-1), {v})",
            f"F.dropout({plain}.softmax(-1), 0.1, self.training).matmul({v})",
        )
    )


@construct("tokens", weight=3)
def attention(p: Program, x: Value) -> Value:
    """Queries, keys and values from projections of their own; a bias per head perhaps."""
    heads, each, length = p.some(1, 2, 2, 3), p.draw.randint(2, max(2, p.widest // 2)), x.shape[0]
    source = p.beside(x, lambda v: v.shape[0] == length) if p.draw.random() < 0.3 else x
    inside = p.some(each, each, each + 1)
    q, k = (heads_of(p.project(s, heads * each), heads, each) for s in (x, source))
    v = heads_of(p.project(source, heads * inside), heads, inside)
    q, k, v = p.say(q), p.say(k), p.say(v)
    if p.draw.random() < 0.2:
        q, k = p.say(f"F.normalize({q}, dim=-1)"), p.say(f"F.normalize({k}, dim=-1)")
        q = p.say(f"{q} * {p.parameter(heads, 1, 1)}")
    scores = p.parameter(heads, length, length) if p.draw.random() < 0.2 else ""
    mixed = attend(p, q, k, v, each, scores)
    last = p.some(f"{length}, {heads * inside}", f"{length}, -1")
    y = p.resized(f"{mixed}.transpose(1, 2).reshape({x}.shape[0], {last})", x, heads * inside)
    return p.like(f"{x} + {p.project(y, x.channels)}", x) if p.draw.random() < 0.7 else y


@construct("tokens", weight=2)
def fused_attention(p: Program, x: Value) -> Value:
    """Queries, keys and values from one projection, cut in several ways."""
    heads, each, length = p.some(1, 2, 3), p.draw.randint(2, max(2, p.widest // 2)), x.shape[0]
    y = p.project(x, 3 * heads * each)
    way = p.some("reshape", "chunk", "split", "interleaved")
    if way == "reshape":
        parts = p.say(
            f"{y}.reshape({y}.shape[0], {length}, 3, {heads}, {each}).permute(2, 0, 3, 1, 4)"
        )
        q, k, v = (p.say(f"{parts}[{i}]") for i in range(3))
    elif way == "interleaved":
        parts = p.say(f"{y}.view({y}.shape[0], {length}, {heads}, 3, {each}).transpose(1, 2)")
        q, k, v = (p.say(f"{parts}[:, :, :, {i}]") for i in range(3))
    else:
        cut = "chunk(3, -1)" if way == "chunk" else f"split({heads * each}, dim=2)"
        thirds = [p.resized(f"{y}.{cut}[{i}]", x, heads * each) for i in range(3)]
        q, k, v = (p.say(heads_of(third, heads, each)) for third in thirds)
    mixed = attend(p, q, k, v, each, "")
    z = p.resized(f"{mixed}.transpose(1, 2).flatten(2)", x, heads * each)
    return p.like(f"{x} + {p.project(z, x.channels)}", x)


@construct("tokens", weight=2)
def shared_keys(p: Program, x: Value) -> Value:
    """Grouped queries: several heads share one of keys and values."""
    groups, times = p.some(1, 2), 2
    each = p.draw.randint(2, max(2, p.widest // 2))
    heads = groups * times
    q = p.say(heads_of(p.project(x, heads * each), heads, each))
    k, v = (p.say(heads_of(p.project(x, groups * each), groups, each)) for _ in range(2))
    if p.draw.random() < 0.4:
        mixed = p.say(f"F.scaled_dot_product_attention({q}, {k}, {v}, enable_gqa=True)")
    else:
        how = p.some("repeat", "expand")
        if how == "repeat":
            k, v = (p.say(f"{t}.repeat_interleave({times}, 1)") for t in (k, v))
        else:
            wide = f"[:, :, None].expand(-1, -1, {times}, -1, -1).flatten(1, 2)"
            k, v = (p.say(f"{t}{wide}") for t in (k, v))
        mixed = attend(p, q, k, v, each, "")
    y = p.resized(f"{mixed}.transpose(1, 2).flatten(2)", x, heads * each)
    return p.project(y, p.width())


@construct("tokens")
def rotary(p: Program, x: Value) -> Value:
    """Attention with rotated halves."""
    heads, half, length = p.some(1, 2), p.draw.randint(1, 3), x.shape[0]
    each = 2 * half
    angles = p.buffer(f"torch.arange({length})[:, None] * torch.ones({half}) / 3")
    both = p.say(f"torch.cat([{angles}, {angles}], -1).to({x}.dtype)")
    turned = []
    for _ in range(2):
        t = p.say(heads_of(p.project(x, heads * each), heads, each))
        swapped = p.say(f"torch.cat([-{t}[..., {half}:], {t}[..., :{half}]], -1)")
        turned.append(p.say(f"{t} * {both}.cos() + {swapped} * {both}.sin()"))
    v = p.say(heads_of(p.project(x, heads * each), heads, each))
    mixed = attend(p, turned[0], turned[1], v, each, "")
    return p.resized(f"{mixed}.transpose(1, 2).flatten(2)", x, heads * each)


@construct("tokens")
def linear_attention(p: Program, x: Value) -> Value:
    """Keys meet values first."""
    q, k = p.project(x, width := p.width()), p.project(x, width)
    v = p.project(x, out := p.width())
    if p.draw.random() < 0.5:
        met = p.say(f"{k}.softmax(1).transpose(1, 2) @ {v}")
        return p.resized(f"F.elu({q}) @ {met}", x, out)
    met = p.say(f"torch.einsum('ntc,ntd->ncd', {k}, {v})")
    return p.resized(f"torch.einsum('ntc,ncd->ntd', {q}, {met}) * 0.2", x, out)


@construct("tokens")
def channel_attention(p: Program, x: Value) -> Value:
    """Channels attend to channels."""
    q, k, v = (p.project(x, w) for w in [p.width()] * 3)
    scores = p.say(f"({q}.transpose(1, 2) @ {k}).softmax(-1)")
    return p.resized(f"({scores} @ {v}.transpose(1, 2)).transpose(1, 2)", x, v.channels)


@construct("tokens")
def multihead(p: Program, x: Value) -> Value | None:
    """torch's own attention, or a whole encoder layer."""
    if x.channels % 2:
        return None
    if p.draw.random() < 0.7:
        name = p.layer(f"MultiheadAttention({x.channels}, 2, batch_first=True)")
        other = p.matching(x)
        weights = p.some(", need_weights=False", "")
        return p.like(f"{name}({x}, {other}, {other}{weights})[0]", x)
    name = p.layer(
        f"TransformerEncoderLayer({x.channels}, 2, {p.width()}, batch_first=True, "
        f"norm_first={p.some(True, False)})"
    )
    return p.like(f"{name}({x})", x)


@construct("tokens")
def class_token(p: Program, x: Value) -> Value:
    """A learned token before the others, and positions."""
    token = p.parameter(1, 1, x.channels)
    y = p.let(f"torch.cat([{token}.expand({x}.shape[0], -1, -1), {x}], 1)", "tokens",
              x.shape[0] + 1, x.channels)  # fmt: skip
    return p.like(f"{y} + {p.parameter(1, *y.shape)}", y)


@construct("tokens")
def recurrent(p: Program, x: Value) -> Value:
    """Recurrent layers: one or two, in one direction or both, their outputs or last states."""
    width, kind, both = p.width(), p.some("GRU", "LSTM", "RNN"), p.draw.random() < 0.4
    options, given = f"{p.some(1, 1, 2)}", width
    if p.draw.random() < 0.2:
        options += ", bias=False"
    if kind == "LSTM" and width > 2 and p.draw.random() < 0.3:
        options, given = f"{options}, proj_size={width - 1}", width - 1
    if kind == "RNN" and p.draw.random() < 0.5:
        options += ", nonlinearity='relu'"
    options += f", bidirectional={both}"
    first = p.some(True, True, False)
    name = p.layer(f"{kind}({x.channels}, {width}, {options}, batch_first={first})")
    source = x if first else p.say(f"{x}.transpose(0, 1)")
    result = p.say(f"{name}({source})")
    if p.draw.random() < 0.2:
        last = f"{result}[1][0]" if kind == "LSTM" else f"{result}[1]"
        return p.let(f"{last}[-1]", "flat", given)
    y = f"{result}[0]" if first else f"{result}[0].transpose(0, 1)"
    return p.resized(y, x, 2 * given if both else given)


@construct("flat")
def outer(p: Program, x: Value) -> Value:
    """An outer product of two small vectors."""
    a, b = p.project(x, p.draw.randint(2, 4)), p.project(x, p.draw.randint(2, 4))
    forms = (f"{a}[:, :, None] * {b}[:, None, :]", f"torch.einsum('na,nb->nab', {a}, {b})",
             f"torch.bmm({a}[:, :, None], {b}[:, None, :])")  # fmt: skip
    y = p.say(p.draw.choice(forms))
    return p.let(f"{y}.flatten(1)", "flat", a.channels * b.channels)


@construct("flat")
def experts(p: Program, x: Value) -> Value:
    """A few layers weighed by a gate."""
    width, count = p.width(), p.some(2, 3)
    gate = p.say(f"{p.project(x, count)}.softmax(-1)")
    parts = [p.project(x, width) for _ in range(count)]
    if p.draw.random() < 0.5:
        terms = " + ".join(f"{gate}[:, {i}:{i + 1}] * {y}" for i, y in enumerate(parts))
        return p.resized(terms, x, width)
    stacked = p.say(f"torch.stack([{', '.join(map(str, parts))}], 1)")
    return p.resized(f"({stacked} * {gate}.unsqueeze(-1)).sum(1)", x, width)
