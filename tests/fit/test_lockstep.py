"""The sequential fit of weights that several calls share."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.calibrate.moments import calibrate
from fxprune.calibrate.recording import Recording
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.fit.lockstep import Fits, fit_in_lockstep
from fxprune.fit.reduction import Reduction
from fxprune.fit.schedule import gather_calls
from fxprune.label.analysis import analyze_graph
from fxprune.passes import ReduceChannels
from tests.strategies import conv


class Branches(nn.Module):
    """Two branches with the same weights, one after the other; their difference feeds the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            conv(3, 12, 3),
            nn.BatchNorm2d(12),
            conv(12, 12, 3),
            conv(12, 4),
        )

    def branch(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.branch(x) - self.branch(x.flip(3) + 0.5))


class Repeated(nn.Module):
    """One layer applied to its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = conv(3, 8, 3), conv(8, 8, 3), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.enter(x)))))))


def _files(store: Spill) -> int:
    return len(list(Path(store._folder.name).iterdir())) if store._folder else 0


def fitted(model: nn.Module, kept: float, memory: float = 1e9) -> tuple[Fits, float, float]:
    """What was fitted, and the relative output error before and after, on images that were not
    fitted on.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(240, 3, 6, 6, generator=generator)
    captured = capture(model.eval(), make_batch((images[:2],), {}))
    analysis = analyze_graph(captured.graph, 2)
    keep_mask = np.ones(len(analysis.group_of()), dtype=bool)
    for group in analysis.groups:
        keep_mask[group.blocks[:, int(kept * group.width) :]] = False
    small = ReduceChannels(analysis, keep_mask)(captured.graph)
    fit, test = images[:200], images[200:]

    def error() -> float:
        with torch.no_grad():
            expected = model(test)
            return float((small(test) - expected).square().sum() / expected.square().sum())

    before = error()
    store = Spill(memory)
    recording = Recording(captured.graph, len(fit), store)
    calibrate(
        captured.graph,
        analysis,
        recording.follow("", (make_batch((part,), {}) for part in fit.split(50))),
        len(fit),
        recording.watch,
    )
    recorded = store._held, _files(store)
    reduction = Reduction(captured.graph, small, analysis, keep_mask)
    fits = fit_in_lockstep(reduction, recording, recording.chunks)
    assert (store._held, _files(store)) == recorded
    return fits, before, error()


def test_a_weight_of_two_branches_is_fitted_on_both() -> None:
    torch.manual_seed(0)
    fits, before, after = fitted(Branches(), kept=0.75)
    assert {"first.weight", "second.weight", "head.weight"} <= fits.layers.keys()
    assert after < 0.8 * before


def test_activations_on_disk_are_fitted_alike() -> None:
    """What a fit put aside, in memory or on disk, is gone when it ends."""
    torch.manual_seed(0)
    model = Branches()
    near, far = (fitted(model, kept=0.75, memory=memory) for memory in (1e9, 3e5))
    assert near[1:] == far[1:]


def test_a_layer_on_its_own_output_stays_as_it_is() -> None:
    """There is no moment at which the inputs of both calls are known and neither output is used."""
    torch.manual_seed(0)
    fits, before, after = fitted(Repeated(), kept=0.75)
    assert "again.weight" not in fits.layers
    assert "leave.weight" in fits.layers
    assert after < before


def test_calls_are_gathered_where_their_order_allows() -> None:
    for model, together in ((Branches(), 2), (Repeated(), 0)):
        graph = capture(model, make_batch((torch.zeros(2, 3, 6, 6),), {})).graph.graph
        calls: dict[str, list[torch.fx.Node]] = {}
        for node in graph.nodes:
            if "conv" in str(node.target):
                calls.setdefault(str(node.args[1].target), []).append(node)
        order, kept = gather_calls(
            list(graph.nodes), [tuple(c) for c in calls.values() if len(c) > 1]
        )
        place = {node: i for i, node in enumerate(order)}
        assert len(kept) == together
        assert all(place[b] == place[a] + 1 for a, b in kept)
        assert all(place[source] < place[node] for node in order for source in node.all_input_nodes)
        assert len(order) == len(graph.nodes)
