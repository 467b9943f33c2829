"""A failing network made small: constructs dropped, widths lowered, inputs left out, as long as it
fails in the same way; and printed so that it runs on its own.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks.random_graphs.judge import FAILURES, Outcome, judge
from benchmarks.random_graphs.program import fill
from benchmarks.random_graphs.recipe import Recipe, write


def signature(outcome: Outcome) -> str:
    """What two failures of one kind have in common: the verdict and the kind of error."""
    kind = outcome.text.partition(":")[0] if outcome.verdict == "ERROR" else ""
    return f"{outcome.verdict} {kind}".strip()


def shrink(recipe: Recipe, outcome: Outcome, tries: int = 400) -> Recipe:
    """The smallest recipe found that fails as this one does.

    Args:
        recipe: it fails.
        outcome: its own.
        tries: most networks to judge.
    """
    wanted = signature(outcome)
    left = tries

    def fails(candidate: Recipe) -> bool:
        nonlocal left
        left -= 1
        return signature(judge(candidate, outcome.lane)) == wanted

    best = _once(recipe, fails, lambda: left > 0)
    while best != recipe and left > 0:
        recipe, best = best, _once(best, fails, lambda: left > 0)
    return best


def _once(recipe: Recipe, fails: Callable[[Recipe], bool], more: Callable[[], bool]) -> Recipe:
    """Try every way once, going on from each that still fails."""
    size = max(len(recipe.blocks) // 2, 1)
    while size and more():
        at = 0
        while at < len(recipe.blocks) and more():
            blocks = recipe.blocks[:at] + recipe.blocks[at + size :]
            candidate = replace(recipe, blocks=blocks)
            if fails(candidate):
                recipe = candidate
            else:
                at += size
        size //= 2
    for change in _simpler(recipe):
        if not more():
            break
        changed = change(recipe)
        if changed != recipe and fails(changed):
            recipe = changed
    return recipe


def _simpler(recipe: Recipe) -> Iterator[Callable[[Recipe], Recipe]]:
    """Changes that leave the constructs."""
    yield lambda r: replace(r, result="one")
    yield lambda r: replace(r, dtype="float64")
    for at in reversed(range(1, len(recipe.inputs))):
        yield partial(_without_input, at=at)
    for at in range(len(recipe.blocks)):
        for widest in (2, 3):
            yield partial(_narrow, at=at, widest=widest)


def _without_input(recipe: Recipe, at: int) -> Recipe:
    return replace(recipe, inputs=recipe.inputs[:at] + recipe.inputs[at + 1 :])


def _narrow(recipe: Recipe, at: int, widest: int) -> Recipe:
    block = recipe.blocks[at]
    narrow = replace(block, widest=min(widest, block.widest))
    return replace(recipe, blocks=(*recipe.blocks[:at], narrow, *recipe.blocks[at + 1 :]))


CHECK = """
net = fill(Net(), {seed}).{dtype}()
x = ({inputs},)
batch = fxprune.capture.batch.make_batch(tuple(t[:2] for t in x), {{}})
graph = fxprune.capture.export.capture(net, batch).graph
analysis = fxprune.label.analysis.analyze_graph(graph, 2)
print(analysis)
keep = fxprune.label.keep.keep_random(analysis, np.random.default_rng({seed}))
small = fxprune.passes.ReduceChannels(analysis, keep).call(graph).graph_module
held = {{**dict(graph.named_parameters()), **dict(graph.named_buffers())}}
plan = fxprune.plans.plan.make_plan(analysis, keep, held, "random", {{}})
for name, kept in plan.kept.items():
    left = small.get_parameter(name) if name in dict(small.named_parameters()) else \\
        small.get_buffer(name)
    held[name].data.copy_(fxprune.plans.plan.scatter(left.detach(), plan.shapes[name], kept))
with torch.no_grad():
    print(graph(*x), small(*x), sep="\\n")
"""


def snippet(recipe: Recipe) -> str:
    """A file that builds the network, reduces it and prints what both give."""
    inputs = ", ".join(
        f"torch.randint(0, 7, {(3, *given.shape)})"
        if given.kind == "ids"
        else f"torch.randn({', '.join(map(str, (3, *given.shape)))}).{_cast(recipe)}()"
        for given in recipe.inputs
    )
    check = CHECK.format(seed=recipe.seed, dtype=_cast(recipe), inputs=inputs)
    return (
        "import math\n\nimport numpy as np\nimport torch\nimport torch.nn.functional as F\n"
        "from torch import nn\n\nimport fxprune\nimport fxprune.passes\n\n\n"
        f"{inspect.getsource(fill)}\n\n{_only_read(write(recipe).source)}\n{check}"
    )


def _cast(recipe: Recipe) -> str:
    return {"float64": "double", "float32": "float", "bfloat16": "bfloat16"}[recipe.dtype]


def _only_read(source: str) -> str:
    """Without the layers that no statement reads; their weights stay what they were in no way, so
    that the values differ from the judged network's.
    """
    forward = source.partition("def forward")[2]
    lines = []
    for line in source.split("\n"):
        made = re.match(r"\s+self\.(?:(m\d+) = |register_buffer\('(b\d+)')", line)
        if made and not re.search(rf"self\.{made[1] or made[2]}\b", forward):
            continue
        lines.append(line)
    return "\n".join(lines)


def is_failure(outcome: Outcome) -> bool:
    """Whether something has to be mended."""
    return outcome.verdict in FAILURES
