"""A model on another device, and batches that may still be on the CPU: on a GPU where there is one,
else on a pretended device (`tests.pretended`).
"""

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune
from benchmarks.models.encoder import trained_encoder
from benchmarks.models.melody import MelodyNet
from benchmarks.models.melody import trained as trained_melody
from benchmarks.models.nets import trained
from benchmarks.models.nets3d import Paired3D
from fxprune.demo import data
from tests import rotations
from tests.blocks import SIZE, Block, Depthwise, GroupNorm, Residual, conv
from tests.nets import images, tiny
from tests.pretended import PRETENDED, pretended
from tests.strategies import BLOCKS, Flat, randomized

REAL = torch.cuda.is_available()
THERE = torch.device("cuda", 0) if REAL else PRETENDED
needs_gpu = pytest.mark.skipif(not REAL, reason="no GPU is here")


def devices(module: nn.Module) -> set[str]:
    return {t.device.type for t in (*module.parameters(), *module.buffers())}


def gap(expected: Tensor, found: Tensor) -> float:
    """Largest difference over the largest value, in full precision."""
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Comparisons are of full precision; without a GPU, tensors can be on the pretended device."""
    torch._C._set_cudnn_allow_tf32(False)
    with nullcontext() if REAL else pretended():
        yield


@pytest.mark.parametrize("method", ["auto", "paper", "magnitude"] if REAL else ["auto"])
def test_every_method_compresses_on_the_device(method: str) -> None:
    net, examples = trained("resnet20").to(THERE), data.load()
    small = fxprune.compress(
        net, examples.calibration[:200].split(64), flops=0.6, method=method, progress=False
    )
    assert devices(small) == {THERE.type}
    found = fxprune.report(small)
    assert found.flops[1] <= 0.6 * found.flops[0]
    x = examples.images[:64].to(THERE)
    with torch.no_grad():
        assert gap(fxprune.masked(net, small)(x), small(x)) < 1e-4


@needs_gpu
@pytest.mark.parametrize("name", ["vgg", "resnet20", "mobilenet", "densenet", "mlp"])
def test_a_gpu_plans_as_a_cpu_does(name: str) -> None:
    """The same widths but for what rounding turns, and as many decisions kept."""
    examples, kept, widths = data.load(), [], []
    for device in (torch.device("cpu"), THERE):
        net = trained(name).to(device)
        small = fxprune.compress(net, examples.calibration, flops=0.5, progress=False)
        x = examples.images.to(device)
        with torch.no_grad():
            kept.append(float((small(x).argmax(1) == net(x).argmax(1)).float().mean()))
        widths.append(sum(fxprune.plan_of(small).widths.values()))
    assert abs(kept[0] - kept[1]) < 0.01
    assert abs(widths[0] - widths[1]) <= 0.05 * widths[0]


@pytest.mark.parametrize("build", BLOCKS if REAL else [Residual, Depthwise, GroupNorm])
def test_blocks_equal_their_masked_original(build: Callable[[int, int], Block]) -> None:
    torch.manual_seed(0)
    block = build(8, 6)
    layers = [conv(3, 8, 3), nn.ReLU(), block, nn.ReLU(), Flat(block.out, 6)]
    net = randomized(nn.Sequential(*layers)).to(THERE)
    x = torch.randn(64, 3, SIZE, SIZE)
    small = fxprune.compress(
        net, x.split(16), params=0.8, method="uniform", decision="close", progress=False
    )
    with torch.no_grad():
        assert gap(fxprune.masked(net, small)(x.to(THERE)), small(x.to(THERE))) < 1e-4


@pytest.mark.parametrize("make", [rotations.chain, rotations.convolutions])
def test_channels_are_mixed_there(make: Callable[[], nn.Module]) -> None:
    x, net = rotations.examples(make, 200).float(), make().float().to(THERE)
    small = fxprune.compress(net, x.split(50), flops=0.7, decision="close", progress=False)
    assert fxprune.plan_of(small).rotations
    with torch.no_grad():
        assert gap(fxprune.masked(net, small)(x.to(THERE)), small(x.to(THERE))) < 1e-4


@needs_gpu
def test_attention_is_rotated_and_kept() -> None:
    net, examples = trained_encoder().to(THERE), data.load()
    small = fxprune.compress(net, examples.calibration, flops=0.6, progress=False)
    x = examples.images.to(THERE)
    with torch.no_grad():
        assert float((small(x).argmax(1) == net(x).argmax(1)).float().mean()) > 0.95
        assert gap(fxprune.masked(net, small)(x), small(x)) < 1e-4


@needs_gpu
def test_recurrent_layers_run_and_train() -> None:
    net = trained_melody().to(THERE)
    assert isinstance(net, MelodyNet)
    from benchmarks.datasets.melodies import draw_melodies

    bands, contours = draw_melodies(300, torch.Generator().manual_seed(0))
    small = fxprune.compress(net, bands, flops=0.6, decision="argmax", progress=False)
    with torch.no_grad():
        assert gap(fxprune.masked(net, small)(bands.to(THERE)), small(bands.to(THERE))) < 1e-3
    small.train()
    loss = nn.functional.cross_entropy(small(bands[:32].to(THERE)), contours[:32].to(THERE))
    loss.backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("shared", [True, False] if REAL else [True])
def test_volumes_in_two_branches_are_compressed(shared: bool) -> None:
    torch.manual_seed(0)
    net = Paired3D(5, 25, (8, 16, 16, 32), 32, shared=shared).eval().to(THERE)
    pairs = [(torch.randn(8, 5, 25, 25, 25), torch.randn(8, 5, 25, 25, 25)) for _ in range(6)]
    small = fxprune.compress(net, pairs, flops=0.7, decision="close", progress=False)
    assert devices(small) == {THERE.type}
    with torch.no_grad():
        left, right = (x.to(THERE) for x in pairs[0])
        assert gap(fxprune.masked(net, small)(left, right), small(left, right)) < 1e-4


def test_files_go_from_device_to_device(tmp_path: Path) -> None:
    net, x = tiny().to(THERE), images(16).to(THERE)
    small = fxprune.compress(net, images(128), flops=0.6, decision="argmax", progress=False)
    fxprune.save(small, tmp_path / "small")
    here, there = fxprune.load(tmp_path / "small"), fxprune.load(tmp_path / "small", device=THERE)
    with torch.no_grad():
        assert devices(here) == {"cpu"}
        torch.testing.assert_close(here(x.cpu()), small(x).cpu(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(there(x), small(x))
        torch.testing.assert_close(copy.deepcopy(small)(x), small(x))
        resized = fxprune.load(tmp_path / "small", into=tiny().to(THERE))
        torch.testing.assert_close(resized(x), small(x), rtol=1e-4, atol=1e-5)
    assert devices(small.cpu()) == {"cpu"}
    with torch.no_grad():
        torch.testing.assert_close(small(x.cpu()), there(x).cpu(), rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_time_is_measured_and_bought(compiled: bool) -> None:
    net, examples = trained("vgg").to(THERE), data.load()
    small = fxprune.compress(
        net,
        examples.calibration,
        latency=0.9,
        workload=fxprune.Workload(256, compiled),
        progress=False,
    )
    table = fxprune.benchmark(small, net, examples.images[:1], batches=(256,), modes=("eager",))
    assert "cuda" in table.device
    assert table.rows[0].memory[0] > table.rows[0].memory[1] > 0


def test_little_memory_makes_examples_wait_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without room leaves them to the CPU, and that to files."""
    monkeypatch.setattr("fxprune.calibrate.spill._room", lambda device, size: False)
    net = tiny().to(THERE)
    one, other = (
        fxprune.compress(
            net, images(128), flops=0.6, decision="argmax", memory=memory, progress=False
        )
        for memory in (2e9, 1e4)
    )
    x = images(8).to(THERE)
    with torch.no_grad():
        torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-5)


def test_the_other_verbs_work_there() -> None:
    net, loader = tiny().to(THERE), list(images(128).split(32))
    analysis = fxprune.analyze(net, images(2))
    assert analysis.groups
    plan = fxprune.plan(net, loader, flops=0.6, decision="argmax", progress=False)
    applied = fxprune.apply(net, fxprune.Plan.from_json(plan.to_json()), loader, progress=False)
    lowered = fxprune.factorize(net, loader, params=0.9, decision="argmax", progress=False)
    swept = fxprune.sweep(net, loader, budgets=[0.8, 0.6], decision="argmax", progress=False)
    part = copy.deepcopy(net)
    within = fxprune.compress(
        nn.Sequential(part, nn.Softmax(1)),
        loader,
        targets=["0"],
        flops=0.7,
        decision="argmax",
        progress=False,
    )
    for small in (applied, lowered, *swept.values(), within):
        assert devices(small) == {THERE.type}


def test_agreement_is_certified() -> None:
    net, examples = trained("mlp").to(THERE), data.load()
    small = fxprune.compress(net, examples.calibration, agreement=0.9, progress=False)
    found = fxprune.report(small).agreement
    assert found is not None
    assert found.bound >= 0.9


def test_recovery_trains_there() -> None:
    pytest.importorskip("accelerate")
    net, examples = trained("resnet20").to(THERE), data.load()
    small = fxprune.compress(net, examples.calibration, flops=0.3, progress=False)
    better = fxprune.recover(small, net, examples.calibration, steps=20, progress=False)
    assert devices(better) == {THERE.type}
    there = fxprune.recover(small.cpu(), net.cpu(), examples.calibration, steps=5, progress=False)
    assert devices(there) == {"cpu"}


@needs_gpu
@pytest.mark.parametrize("make", [tiny, trained_encoder])
def test_compiled_and_exported_alike(make: Callable[[], nn.Module]) -> None:
    net = make().to(THERE)
    x = images(64) if make is tiny else data.load().calibration[:64]
    small = fxprune.compress(net, x, flops=0.7, decision="argmax", progress=False)
    x = x[:8].to(THERE)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(small)(x), small(x), rtol=1e-3, atol=1e-4)
        exported = torch.export.export(small, (x,)).module()
        torch.testing.assert_close(exported(x), small(x), rtol=1e-4, atol=1e-5)


@needs_gpu
def test_the_callers_precision_comes_back_and_does_not_reach_the_sums() -> None:
    net, x = tiny().to(THERE), images(128)
    torch._C._set_cudnn_allow_tf32(True)
    torch.set_float32_matmul_precision("high")
    try:
        rough = fxprune.compress(net, x, flops=0.6, decision="argmax", progress=False)
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch._C._set_cudnn_allow_tf32(False)
        torch.set_float32_matmul_precision("highest")
    whole = fxprune.compress(net, x, flops=0.6, decision="argmax", progress=False)
    with torch.no_grad():
        torch.testing.assert_close(rough(x.to(THERE)), whole(x.to(THERE)), rtol=1e-4, atol=1e-5)


@needs_gpu
def test_pickles_come_back_where_they_were() -> None:
    net, x = tiny().to(THERE), images(16).to(THERE)
    small = fxprune.compress(net, images(128), flops=0.6, decision="argmax", progress=False)
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(buffer, weights_only=False)(x), small(x))


@needs_gpu
def test_random_numbers_on_the_device_come_back() -> None:
    net, x = tiny().to(THERE), images(64)
    before = torch.cuda.get_rng_state(THERE)
    fxprune.compress(net, x, flops=0.7, decision="argmax", progress=False)
    assert torch.equal(before, torch.cuda.get_rng_state(THERE))
