"""What weighs channels, rows or layers by what they hold: attention with scores of another kind,
experts, responses, unit vectors.
"""

from benchmarks.random_graphs.constructs import construct
from benchmarks.random_graphs.joining import axis
from benchmarks.random_graphs.mixing import attend, heads_of
from benchmarks.random_graphs.program import Program, Value


def _back(p: Program, x: Value, mixed: str, width: int) -> Value:
    """Heads side by side, then a layer; added."""
    y = p.resized(f"{mixed}.transpose(1, 2).flatten(2)", x, width)
    return p.like(f"{x} + {p.project(y, x.channels)}", x)


@construct("tokens")
def bucketed_attention(p: Program, x: Value) -> Value:
    """A bias that buckets of relative positions look up: the logarithm of zero is thrown away."""
    heads, each, length = p.some(1, 2, 3), p.draw.randint(2, max(2, p.widest // 2)), x.shape[0]
    q, k, v = (p.say(heads_of(p.project(x, heads * each), heads, each)) for _ in range(3))
    table, steps = p.layer(f"Embedding(6, {heads})"), f"torch.arange({length})"
    far = p.say(f"({steps}[None] - {steps}[:, None]).abs()")
    log = p.say(f"2 + (torch.log({far} / 2) * 2).long().clamp(0, 3)")
    bias = p.say(f"{table}(torch.where({far} < 2, {far}, {log})).permute(2, 0, 1)")
    return _back(p, x, attend(p, q, k, v, each, bias), heads * each)


@construct("tokens")
def disentangled_attention(p: Program, x: Value) -> Value:
    """Scores have a part that is gathered by relative positions."""
    heads, each, length = p.some(1, 2), p.draw.randint(2, max(2, p.widest // 2)), x.shape[0]
    width, rows = heads * each, 2 * length - 1
    q, v = (p.say(heads_of(p.project(x, width), heads, each)) for _ in range(2))
    key = p.layer(f"Linear({x.channels}, {width})")
    k = p.say(heads_of(p.resized(f"{key}({x})", x, width), heads, each))
    table, steps = p.parameter(rows, x.channels), f"torch.arange({length})"
    places = p.buffer(f"{steps}[:, None] - {steps} + {length - 1}")
    near = p.say(f"{key}({table}).view({rows}, {heads}, {each}).permute(1, 2, 0)")
    wide = f"{places}.expand({x}.shape[0], {heads}, -1, -1)"
    scores = p.say(f"({q} @ {near}).gather(-1, {wide})")
    return _back(p, x, attend(p, q, k, v, each, scores), width)


@construct("tokens")
def convolved_attention(p: Program, x: Value) -> Value:
    """Queries, keys and values by grouped convolutions of one dimension."""
    heads, each, length = p.some(1, 2), p.some(2, 4), x.shape[0]
    groups = p.some(1, 2) if x.channels % 2 == 0 else 1
    turned, parts = p.say(f"{x}.transpose(1, 2)"), list[str]()
    for _ in range(3):
        layer = p.layer(f"Conv1d({x.channels}, {heads * each}, 1, groups={groups})")
        parts.append(p.say(f"{layer}({turned}).view({x}.shape[0], {heads}, {each}, {length})"))
    q, k, v = parts
    scores = p.say(f"({q}.transpose(-1, -2) @ {k} * 0.5).softmax(-1)")
    mixed = p.say(f"({scores} @ {v}.transpose(-1, -2)).permute(0, 1, 3, 2).contiguous()")
    last = p.layer(f"Conv1d({heads * each}, {x.channels}, 1, groups={groups})")
    y = p.say(f"{last}({mixed}.view({x}.shape[0], {heads * each}, {length}))")
    return p.like(f"{x} + {y}.transpose(1, 2)", x)


@construct("tokens", "flat")
def routed(p: Program, x: Value) -> Value:
    """Experts of which a router picks some for every row: layers, or one stacked weight each."""
    count, inner = p.some(2, 3, 4), p.width()
    scores = p.say(f"{p.project(x, count)}.softmax(-1)")
    best = p.say(f"{scores}.topk({p.some(1, 2)}, -1)")
    share = p.say(f"torch.zeros_like({scores}).scatter(-1, {best}.indices, {best}.values)")
    if p.draw.random() < 0.5:
        parts = [p.project(p.activate(p.project(x, inner)), x.channels) for _ in range(count)]
        terms = " + ".join(f"{share}[..., {i}:{i + 1}] * {y}" for i, y in enumerate(parts))
        return p.like(f"{x} + {terms}" if p.draw.random() < 0.5 else terms, x)
    rows = "nt" if x.kind == "tokens" else "n"
    up, down = p.parameter(count, x.channels, inner), p.parameter(count, inner, x.channels)
    y = p.say(f"torch.einsum('{rows}c,eci->{rows}ei', {x}, {up}).relu()")
    z = p.say(f"torch.einsum('{rows}ei,eic->{rows}ec', {y}, {down})")
    return p.like(p.some(f"({z} * {share}.unsqueeze(-1)).sum(-2)",
                         f"({share}.unsqueeze(-2) @ {z}).squeeze(-2) + {x}"), x)  # fmt: skip


@construct("map", "tokens")
def response_norm(p: Program, x: Value) -> Value:
    """Channels weighed by how much they respond beside the others (ConvNeXt V2)."""
    y, at = p.activate(p.project(x, p.width())), axis(x)
    dims = tuple(d for d in range(1, x.rank + 2) if d != at)
    shape = (y.channels, *[1] * (0 if x.kind == "tokens" else x.rank))
    gain, shift = p.parameter(*shape), p.parameter(*shape)
    size = p.say(f"{y}.norm(p=2, dim={dims}, keepdim=True)")
    share = p.say(f"{size} / ({size}.mean({at}, keepdim=True) + 1e-6)")
    return p.project(p.like(f"{gain} * ({y} * {share}) + {shift} + {y}", y), p.width())


@construct("tokens", "flat")
def cosine(p: Program, x: Value) -> Value:
    """A layer of unit rows on unit vectors."""
    y = p.project(x, p.width())
    weight = p.parameter(width := p.width(), y.channels)
    unit = p.some(f"F.normalize({weight}, dim=-1)", f"{weight} / {weight}.norm(dim=1)[:, None]")
    return p.resized(f"F.linear(F.normalize({y}, dim=-1), {unit}) * 4", x, width)
