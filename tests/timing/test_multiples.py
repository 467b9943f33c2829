"""Multiples that suit a device."""

import pytest
import torch
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.timing.multiples import choose_multiples
from fxprune.timing.workload import Workload


def test_multiples_leave_narrow_groups_two_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Linear(3, 6),
        nn.ReLU(),
        nn.Linear(6, 32),
        nn.ReLU(),
        nn.Linear(32, 512),
        nn.ReLU(),
        nn.Linear(512, 2),
    )
    captured = capture(model, make_batch((torch.randn(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    assert [g.channels for g in analysis.groups] == [6, 32, 512]
    for capability, top in (("AVX2", 8), ("AVX512", 16)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda held=capability: held)
        assert choose_multiples(analysis, model, Workload()) == [2, min(16, top), top]
    assert choose_multiples(analysis, model, Workload(device="cuda")) == [2, 8, 8]
    assert choose_multiples(analysis, model, Workload(device="cuda", dtype=torch.bfloat16)) == [
        2,
        16,
        16,
    ]
