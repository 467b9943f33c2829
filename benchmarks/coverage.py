"""Which architectures the mechanism holds for: capture, label propagation, channel reduction, masked equivalence.

    python -m benchmarks.coverage --torchvision --timm 120 --transformers --json coverage.json

Weights are random. Channels are removed at random, the same fraction of every group, until FLOPs fall to 0.7. The shrunken
graph must then equal the original with the removed channels' weights zeroed, at batch sizes 1, 2 and 3.
"""

import copy
import json
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import zoo
from fxprune.analysis import Analysis, analyse
from fxprune.capture import Captured, capture
from fxprune.costs import CostModel
from fxprune.inputs import Batch, example_batch
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plan import Plan, make_plan, scatter

FLOPS = 0.7
TOLERANCE = 1e-4
EXACT = 1e-8
ENOUGH = 0.9
LONGEST = 300


@dataclass
class Result:
    """One row. Shares are of all parameters; `flops` and `measured` are what is left, by the cost model and by counting."""

    name: str
    source: str
    parameters: int = 0
    captured: bool = False
    groups: int = 0
    prunable: float = 0.0
    pinned: dict[str, float] = field(default_factory=dict)
    capture_s: float = 0.0
    analysis_s: float = 0.0
    flops: float = 1.0
    measured: float = 1.0
    error: float | None = None
    error64: float | None = None
    effect: float = 0.0
    shapes: dict[int, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""
    trace: str = ""

    @property
    def verdict(self) -> str:
        """`pass`, `pass (reason)` where the architecture leaves little to remove, or `FAIL`."""
        if self.failure or self.error is None:
            return "FAIL"
        # Random weights may blow rounding up; exact arithmetic tells that from a wrong channel.
        if not self.error <= TOLERANCE and not (self.error64 is not None and self.error64 <= EXACT):
            return "FAIL"
        if self.flops <= ENOUGH:
            return "pass"
        reason = next(iter(self.pinned), "")
        return f"pass ({reason})" if reason else "FAIL"


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give constant tensors (norms, layer scales, zero-initialised weights) random values: errors would hide behind them."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)

    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.copy_(0.1 * noise(tensor) + (tensor if float(tensor.flatten()[0].abs()) > 0.1 else 0.3))
                if tensor.dim() > 1 and tensor.shape[0] > 1:
                    tensor.sub_(0.3).mul_(0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(1 + 0.2 * noise(buffer).tanh())


def uniform_widths(costs: CostModel, analysis: Analysis, flops: float) -> np.ndarray:
    """The same fraction of every group, as large as leaves at most `flops` of the FLOPs."""

    def widths(fraction: float) -> np.ndarray:
        return np.array([max(1, round(fraction * g.width)) for g in analysis.groups])

    low, high, full = 0.0, 1.0, max(costs.flops(costs.full), 1.0)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if costs.flops(widths(middle)) / full <= flops else (low, middle)
    return widths(low)


def random_survivors(analysis: Analysis, widths: np.ndarray, seed: int = 0) -> np.ndarray:
    """(channels + 1,) bool: in each block of each group a random choice."""
    generator = np.random.default_rng(seed)
    alive = np.ones(len(analysis.group_of()), dtype=bool)
    for group, width in zip(analysis.groups, widths, strict=True):
        for block in group.blocks:
            alive[generator.permutation(block)[int(width) :]] = False
    return alive


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, the non-persistent ones too."""
    return {n: t.detach() for n, t in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]}


def masked(model: nn.Module, graph: GraphModule, small: nn.Module, plan: Plan) -> nn.Module:
    """The original with the small weights scattered back and zeros elsewhere; the graph where names differ."""
    state, held = tensors(model), tensors(graph)
    fits = all(n in state and torch.equal(state[n], held[n]) for n in plan.kept)
    big = copy.deepcopy(model if fits else graph)
    full, reduced = tensors(big), tensors(small)
    for name in plan.kept:
        full[name].copy_(scatter(reduced[name], plan.shapes[name], plan.kept[name]))
    return big


def outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Floating-point tensors that a model returns."""
    with torch.no_grad():
        result = model(*batch.args, **batch.kwargs)
    found = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
    return [t for t in found if t.is_floating_point()]


def distance(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference over the largest expected value."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        raise ValueError(f"outputs of shapes {[tuple(t.shape) for t in found]}, expected {[tuple(t.shape) for t in expected]}")
    if not all(bool(torch.isfinite(t).all()) for t in expected):
        raise ValueError("the original's output is not finite")
    worst = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(found, expected, strict=True) if b.numel()]
    return max(worst, default=0.0)


def resized(batch: Batch, size: int) -> Batch:
    """A batch of other random examples."""
    torch.manual_seed(size)

    def draw(t: Tensor) -> Tensor:
        if not t.dim() or t.shape[0] != batch.size:
            return t
        shape = (size, *t.shape[1:])
        return torch.randn(shape, dtype=t.dtype) if t.is_floating_point() else t[:1].expand(shape).contiguous()

    return batch.map(draw)


def flops_of(model: nn.Module, batch: Batch) -> int:
    """FLOPs of one forward."""
    with FlopCounterMode(display=False) as counter:
        outputs(model, batch)
    return int(counter.get_total_flops())


def shares(captured: Captured, analysis: Analysis, result: Result) -> None:
    """Share of parameters with a removable axis, and of those without by reason."""
    sizes = {n: p.numel() for n, p in captured.graph.named_parameters()}
    total = max(sum(sizes.values()), 1)
    free = {name for (name, _), ids in analysis.axes.items() if (ids > 0).any()}
    result.prunable = sum(s for n, s in sizes.items() if n in free) / total
    reasons: Counter[str] = Counter()
    for name in {p.parameter for p in analysis.pinned} - free:
        reason = next(p.reason for p in analysis.pinned if p.parameter == name)
        reasons[reason.partition(" (")[0]] += sizes.get(name, 0)
    for p in analysis.pinned:
        reasons[p.reason.partition(" (")[0]] += 0
    result.pinned = {r: s / total for r, s in reasons.most_common()}


def examine(result: Result, model: nn.Module, example: Any) -> None:
    """Fill one row."""
    model = model.eval()
    randomise(model)
    result.parameters = sum(p.numel() for p in model.parameters())
    batch = example_batch(model, example)
    start = time.perf_counter()
    captured = capture(model, batch)
    result.captured, result.notes = True, captured.notes
    middle = time.perf_counter()
    analysis = analyse(captured.graph, batch.size)
    result.capture_s, result.analysis_s = middle - start, time.perf_counter() - middle
    result.groups = len(analysis.groups)
    shares(captured, analysis, result)
    costs = CostModel(captured.graph, analysis)
    widths = uniform_widths(costs, analysis, FLOPS)
    result.flops = costs.fractions(widths)["flops"]
    alive = random_survivors(analysis, widths)
    reduced = ReduceChannels(analysis, alive)(captured.graph)
    plan = make_plan(analysis, alive, tensors(captured.graph), "random", {})
    small = LiftModules()(reduced)
    big = masked(model, captured.graph, small, plan)
    expected = outputs(big, batch)
    original = outputs(model, batch)
    result.effect = distance(original, expected)
    result.error = max(distance(expected, outputs(small, batch)), distance(original, outputs(captured.graph, batch)))
    result.measured = flops_of(small, batch) / max(flops_of(captured.graph, batch), 1)
    if not result.error <= TOLERANCE:
        double = batch.map(lambda t: t.double() if t.is_floating_point() else t)
        expected = outputs(copy.deepcopy(big).double(), double)
        result.error64 = distance(expected, outputs(copy.deepcopy(small).double(), double))
    if any("batches of two only" in note for note in captured.notes):
        return
    for size in (1, 3):
        other = resized(batch, size)
        expected = outputs(big, other)
        result.error = max(result.error, distance(expected, outputs(small, other)))
        result.shapes[size] = [list(t.shape) for t in expected][:4]


class _TooLong(BaseException):
    """Not an Exception, so that nothing on the way takes it for the model's."""


def _alarm(*_: Any) -> None:
    raise _TooLong(f"took longer than {LONGEST} s")


def row(name: str, source: str, build: Callable[[], tuple[nn.Module, Any]]) -> Result:
    """Examine one model, whatever it raises."""
    result = Result(name, source)
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(LONGEST)
    try:
        torch.manual_seed(0)
        examine(result, *build())
    except (Exception, _TooLong) as error:
        result.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        result.trace = traceback.format_exc()
    finally:
        signal.alarm(0)
    return result


def table(results: list[Result]) -> Table:
    """All rows for people."""
    made = Table(title="fxprune coverage")
    for column in ("model", "params", "groups", "prunable", "capture", "analysis", "FLOPs left", "counted", "error", "verdict"):
        made.add_column(column, justify="left" if column in ("model", "verdict") else "right", overflow="fold")
    for r in results:
        error = "-" if r.error is None else f"{r.error:.1e}"
        made.add_row(
            r.name, f"{r.parameters / 1e6:.1f}M", str(r.groups), f"{r.prunable:.0%}", f"{r.capture_s:.1f}s", f"{r.analysis_s:.1f}s",
            f"{r.flops:.2f}", f"{r.measured:.2f}", error, r.verdict + (f": {r.failure}" if r.failure else ""),
        )  # fmt: skip
    return made


def main(
    torchvision: Annotated[bool, typer.Option(help="All classification, segmentation and video models.")] = False,
    timm: Annotated[int, typer.Option(help="How many timm families, one small member each.")] = 0,
    transformers: Annotated[bool, typer.Option(help="Tiny random configurations.")] = False,
    only: Annotated[str, typer.Option(help="Names that contain this.")] = "",
    most: Annotated[float, typer.Option(help="Skip models of more than this many million parameters.")] = 100.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    verbose: Annotated[bool, typer.Option(help="Print tracebacks and pins.")] = False,
) -> None:
    """Examine models one after another and print a table."""
    torch.set_num_threads(1)
    console = Console(width=160)
    results: list[Result] = []

    def models() -> Iterator[tuple[str, str, Callable[[], tuple[nn.Module, Any]]]]:
        if torchvision:
            yield from zoo.torchvision_models(most)
        if timm:
            yield from zoo.timm_models(timm, most)
        if transformers:
            yield from zoo.transformers_models()

    for name, source, build in models():
        if only and not any(part in name for part in only.split(",")):
            continue
        result = row(name, source, build)
        if result.failure.startswith("TooLarge"):
            console.print(f"{name}: skipped, {result.failure}")
            continue
        results.append(result)
        console.print(
            f"{name}: {result.verdict} {result.failure} error {result.error} flops {result.flops:.2f}/{result.measured:.2f} effect "
            f"{result.effect:.2g} groups {result.groups} capture {result.capture_s:.1f}s analysis {result.analysis_s:.1f}s",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
        if verbose:
            console.print(result.trace, result.pinned, result.notes, markup=False)
        if json_file:
            json_file.write_text(json.dumps([asdict(r) | {"verdict": r.verdict} for r in results], indent=1))
    console.print(table(results))
    passed = sum(r.verdict != "FAIL" for r in results)
    console.print(f"{passed} of {len(results)} pass; {sum(r.verdict == 'pass' for r in results)} of them lose 10 % of their FLOPs or more")


if __name__ == "__main__":
    typer.run(main)
