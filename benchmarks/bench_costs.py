"""pytest-benchmark: latency of rewritten graphs, compile time, cost of every station. `python -m
benchmarks.costs` runs it and writes the page.

python -m pytest benchmarks/bench_costs.py --benchmark-only
"""

from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch._inductor.utils import fresh_cache
from torch.fx import GraphModule

import fxprune
from benchmarks.models import nets
from fxprune.capture.batch import make_batch
from fxprune.demo import data
from fxprune.timing.workload import Workload, prepare_call, use_settings

BATCH = 32
CALIBRATION = 500
WHICH = ("original", "small")


def compressed(name: str) -> GraphModule:
    """A network of `nets` at half its FLOPs."""
    images = data.load().calibration[:CALIBRATION]
    return fxprune.compress(nets.trained(name), images, flops=0.5, round_to="auto", progress=False)


@lru_cache
def model(name: str, which: str) -> nn.Module:
    """The original or small network."""
    return nets.trained(name) if which == "original" else compressed(name)


@pytest.mark.parametrize("name", list(nets.NETS))
def test_stations(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark.group = "stations"
    small = benchmark.pedantic(compressed, (name,), rounds=1)
    benchmark.extra_info |= {"net": name, "stations": fxprune.report(small).seconds}


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", list(nets.NETS))
def test_latency(benchmark: BenchmarkFixture, name: str, which: str) -> None:
    benchmark.group = f"latency {name}"
    benchmark.extra_info |= {"net": name, "which": which}
    workload = Workload(BATCH)
    with use_settings(workload):
        benchmark(
            prepare_call(
                model(name, which), make_batch((data.load().images[:BATCH],), {}), workload
            )
        )


@pytest.fixture(scope="module")
def warm() -> None:
    """Inductor imported and its headers compiled, which happens once."""
    torch.compile(nn.ReLU())(torch.zeros(1000))


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", list(nets.NETS))
def test_compile(benchmark: BenchmarkFixture, name: str, which: str) -> None:
    """The first call under torch.compile, with nothing in Inductor's cache."""
    benchmark.group = f"compile {name}"
    benchmark.extra_info |= {"net": name, "which": which}

    def first_call() -> None:
        torch._dynamo.reset()
        with fresh_cache(), torch.no_grad():
            torch.compile(model(name, which), dynamic=False)(data.load().images[:BATCH])

    model(name, which)
    benchmark.pedantic(first_call, rounds=1)
