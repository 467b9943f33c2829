"""One model of the coverage run: capture, labels, removal of random channels, masked equivalence,
compilation.
"""

import copy
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from benchmarks.entry import Entry
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch, example_batch
from fxprune.capture.export import Captured, capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.flops import count_flops
from fxprune.label.groups import Analysis
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plans.plan import Plan, make_plan, scatter
from fxprune.profile.costs import CostModel
from fxprune.targets import Passing

FLOPS = 0.7
ENOUGH = 0.9
TOLERANCE = 1e-4
EXACT = 1e-8


@dataclass
class Row:
    """What was found for one model.

    Attributes:
        parameters: of what is compressed.
        captured: whether torch.export took it.
        groups: channel groups.
        prunable: share of the parameters with an axis from which channels can go.
        pinned: shares of the others, by reason.
        capture_s, analysis_s: processor seconds of the one thread.
        flops: what is left by the cost model.
        counted: what torch.utils.flop_counter counts in the compressed graph, as a share of the
            original's.
        error: largest difference to the masked original over the largest output, at batch sizes 1,
            2 and 3, in single precision.
        error64: the same in double precision, where single precision is not enough.
        effect: the same against the unmasked original: what the removal itself changes.
        shapes: of the first outputs by batch size.
        compiled: whether torch.compile(fullgraph=True) takes the result and returns the same; the
            error where not.
        notes: what capture lost.
        failure: where and why it stopped.
    """

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
    counted: float = 1.0
    error: float | None = None
    error64: float | None = None
    effect: float = 0.0
    shapes: dict[str, Any] = field(default_factory=dict)
    compiled: str = ""
    notes: tuple[str, ...] = ()
    failure: str = ""
    trace: str = ""

    @property
    def equal(self) -> bool:
        """Masked equivalence; double precision tells rounding that random weights blow up from a
        wrong channel.
        """
        if self.failure or self.error is None:
            return False
        return self.error <= TOLERANCE or self.error64 is not None and self.error64 <= EXACT

    @property
    def verdict(self) -> str:
        """`pass`; `pass (reason)` where the architecture leaves less than a tenth of the FLOPs to
        remove; `FAIL`.
        """
        if not self.equal:
            return "FAIL"
        if self.counted <= ENOUGH:
            return "pass"
        reason = next(iter(self.pinned), "")
        return f"pass ({reason})" if reason and self.flops > FLOPS else "FAIL"

    def as_json(self) -> dict[str, Any]:
        """The row with its verdict."""
        return asdict(self) | {"verdict": self.verdict}


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Give constant tensors (norms, layer scales, zero-initialized weights) random values: errors
    would hide behind them.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)

    with torch.no_grad():
        for tensor in model.parameters():
            if (
                tensor.is_floating_point()
                and tensor.numel() > 1
                and bool((tensor == tensor.flatten()[0]).all())
            ):
                tensor.copy_(
                    0.1 * noise(tensor)
                    + (tensor if float(tensor.flatten()[0].abs()) > 0.1 else 0.3)
                )
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
    keep_mask = np.ones(len(analysis.group_of()), dtype=bool)
    for group, width in zip(analysis.groups, widths, strict=True):
        for block in group.blocks:
            keep_mask[generator.permutation(block)[int(width) :]] = False
    return keep_mask


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, the non-persistent ones too."""
    return {
        n: t.detach()
        for n, t in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
    }


def masked(model: nn.Module, graph: GraphModule, small: nn.Module, plan: Plan) -> nn.Module:
    """The original with the small weights scattered back and zeros elsewhere; the graph where
    names differ.
    """
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
        raise ValueError(
            f"outputs of shapes {[tuple(t.shape) for t in found]}, expected "
            f"{[tuple(t.shape) for t in expected]}"
        )
    if not all(bool(torch.isfinite(t).all()) for t in expected):
        raise ValueError("the original's output is not finite")
    worst = [
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(found, expected, strict=True)
        if b.numel()
    ]
    return max(worst, default=0.0)


def resized(batch: Batch, size: int) -> Batch:
    """A batch of other random examples."""
    torch.manual_seed(size)

    def draw(t: Tensor) -> Tensor:
        if not t.dim() or t.shape[0] != batch.size:
            return t
        shape = (size, *t.shape[1:])
        return (
            torch.randn(shape, dtype=t.dtype)
            if t.is_floating_point()
            else t[:1].expand(shape).contiguous()
        )

    return batch.map(draw)


def shares(captured: Captured, analysis: Analysis, row: Row) -> None:
    """Share of parameters with a removable axis, and of those without by reason."""
    sizes = {n: p.numel() for n, p in captured.graph.named_parameters()}
    total = max(sum(sizes.values()), 1)
    free = {name for (name, _), ids in analysis.axes.items() if (ids > 0).any()}
    row.prunable = sum(s for n, s in sizes.items() if n in free) / total
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for p in analysis.pinned:
        reason = p.reason.partition(" (")[0]
        # The end of the network is the least telling of a weight's reasons.
        if p.parameter not in first or first[p.parameter] in (
            "reads channels that stay",
            "is the model's output",
        ):
            first[p.parameter] = reason
        reasons[reason] += 0
    for name in first.keys() - free:
        reasons[first[name]] += sizes.get(name, 0)
    row.pinned = {r: s / total for r, s in reasons.most_common()}


def compiles(small: nn.Module, batch: Batch, expected: list[Tensor]) -> str:
    """`yes` where torch.compile takes the module as one graph and the result agrees; the error
    otherwise.
    """
    try:
        error = distance(
            expected, outputs(torch.compile(small, backend="eager", fullgraph=True), batch)
        )
    except Exception as caught:
        return (
            f"{type(caught).__name__}: "
            f"{str(caught).strip().splitlines()[0] if str(caught).strip() else ''}"
        )
    return "yes" if error <= TOLERANCE else f"differs by {error:.1e}"


def examine(entry: Entry, row: Row, compiling: bool = True) -> None:
    """Build a model and fill its row as far as it goes; `compiling` tries torch.compile too, which
    takes as long as the rest.

    Raises:
        Exception: whatever building, capturing or compressing the model raises.
    """
    torch.manual_seed(0)
    whole, example = entry.build()
    whole.eval()
    randomize(whole)
    if not entry.target:
        _examine(row, whole, example_batch(whole, example), compiling)
        return
    batch = next(iter(Passing(whole, entry.target, Calibration(whole, example))))
    small = _examine(row, whole.get_submodule(entry.target), batch, compiling)
    parent, _, leaf = entry.target.rpartition(".")
    setattr(whole.get_submodule(parent), leaf, small)
    # Parts of torchvision's detectors compile themselves.
    with torch.compiler.set_stance("force_eager"):
        outputs(whole, example_batch(whole, example))


def _examine(row: Row, model: nn.Module, batch: Batch, compiling: bool) -> GraphModule:
    row.parameters = sum(p.numel() for p in model.parameters())
    start = time.process_time()
    captured = capture(model, batch)
    row.captured, row.notes = True, captured.notes
    middle = time.process_time()
    analysis = analyze_graph(captured.graph, batch.size)
    row.capture_s, row.analysis_s = middle - start, time.process_time() - middle
    row.groups = len(analysis.groups)
    shares(captured, analysis, row)
    costs = CostModel(captured.graph, analysis)
    widths = uniform_widths(costs, analysis, FLOPS)
    row.flops = costs.fractions(widths)["flops"]
    keep_mask = random_survivors(analysis, widths)
    reduced = ReduceChannels(analysis, keep_mask)(captured.graph).graph_module
    row.counted = count_flops(reduced, batch) / max(count_flops(captured.graph, batch), 1)
    plan = make_plan(analysis, keep_mask, tensors(captured.graph), "random", {})
    small = LiftModules()(reduced).graph_module
    big = masked(model, captured.graph, small, plan)
    found = outputs(small, batch)
    row.effect = distance(outputs(model, batch), outputs(big, batch))
    fixed = any("batches of two only" in note for note in captured.notes)
    _compare(row, model, captured.graph, batch, 2)
    for size in (2,) if fixed else (1, 2, 3):
        _compare(row, big, small, batch if size == 2 else resized(batch, size), size)
    if compiling:
        row.compiled = compiles(small, batch, found)
    return small


def _compare(row: Row, expected: nn.Module, small: nn.Module, batch: Batch, size: int) -> None:
    """Whether two modules give the same at one batch size; in double precision too where single
    precision is not enough.
    """
    found = outputs(small, batch)
    error = distance(outputs(expected, batch), found)
    row.error = max(row.error or 0.0, error)
    row.shapes[str(size)] = [list(t.shape) for t in found][:4]
    if not error <= TOLERANCE:
        double = batch.map(lambda t: t.double() if t.is_floating_point() else t)
        exact = outputs(copy.deepcopy(expected).double(), double)
        row.error64 = max(
            row.error64 or 0.0, distance(exact, outputs(copy.deepcopy(small).double(), double))
        )
