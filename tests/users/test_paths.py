"""What six users come for, from `pip install .` in a fresh environment to what each takes home.

Each types real commands in a folder outside the checkout: what a page or the last command's
closing line tells them to.
"""

import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.users.desk import (
    PACKAGED,
    Desk,
    copy_checkout,
    install,
    interpreter,
    make_environment,
)

pytestmark = pytest.mark.slow

SHOP = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )
"""
QUICK = ("--mode", "eager", "--rounds", "1", "--batch", "4")


def photographs(folder: Path, count: int) -> None:
    """Noisy pictures, each of a color of its own."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for at in range(count):
        pixels = draw.integers(0, 96, (40, 48, 3)) + draw.integers(0, 160, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{at:03}.jpg")


def test_a_vision_engineer_takes_home_a_model_and_a_page(desk: Desk) -> None:
    """With the command line only: a network, images in the usual folders, no page read."""
    (desk.folder / "shop.py").write_text(SHOP)
    photographs(desk.folder / "photos" / "train", 100)
    photographs(desk.folder / "photos" / "test", 10)
    words = ("shop:make", "--size", "32", "--decision", "argmax", "--flops", "0.7")
    asked = desk.fxprune("compress", *words, "--data", "photos", status=1).errors
    assert "photos holds test/ and train/" in asked
    data = asked.split("such as --data ")[1].split()[0].rstrip(".,;:")
    assert data == "photos/train"
    done = desk.fxprune(
        *("compress", *words, "--data", data, "--out", "small", "--html", "report.html")
    )
    assert max(map(len, done.out.splitlines())) <= 80
    assert "<html" in (desk.folder / "report.html").read_text()
    program, *bench = done.next
    assert program == "fxprune"
    timed = desk.fxprune(*bench, *QUICK, "--json")
    assert timed.json["rows"][0]["memory"][1] < timed.json["rows"][0]["memory"][0]
    assert timed.next == ["fxprune", "export", "small", "--to", "onnx"]
    assert (desk.folder / "small" / "model.safetensors").stat().st_size > 0


def test_a_researcher_takes_home_a_picture_and_a_table(desk: Desk) -> None:
    """Who knows the paper compares its method with another, on the network that comes along."""
    images = desk.python("from fxprune.demo.data import FOLDER\nprint(FOLDER)").strip()
    words = (
        *("--data", f"{images}/fashion_mnist.npz", "--mean", "0.286", "--std", "0.353"),
        *("--limit", "60", "--flops", "0.8", "--flops", "0.5"),
    )
    for method in ("paper", "uniform"):
        found = desk.fxprune(
            *("sweep", "fxprune.demo.run:vgg", *words, "--method", method, "--out", method),
            "--json",
        ).json
        with (desk.folder / f"{method}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("FLOPs", "agreement", "bound"))
            for size in found["sizes"]:
                agreement = size["agreement"]
                assert agreement["bound"] < agreement["rate"]
                table.writerow((size["budget"], agreement["rate"], agreement["bound"]))
    desk.fxprune("plot", "paper", "uniform", "--out", "methods.svg")
    drawn = (desk.folder / "methods.svg").read_text()
    assert ">paper</text>" in drawn
    assert ">uniform</text>" in drawn
    assert len((desk.folder / "paper.csv").read_text().splitlines()) == 3


AFFINITY = """
import torch
from torch import nn

import fxprune


class Affinity(nn.Module):
    def __init__(self):
        super().__init__()
        self.grid = nn.Sequential(
            nn.Conv3d(4, 12, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(12, 24, 3), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, voxels):
        return self.head(self.grid(voxels)).squeeze(1)


torch.manual_seed(0)
model = Affinity()
structures = torch.rand(40, 4, 8, 8, 8).repeat_interleave(3, 0)
crops = structures + 0.1 * torch.rand(120, 4, 8, 8, 8)
batches = [
    {"voxels": crops[at : at + 20], "structure": torch.arange(at, at + 20) // 3}
    for at in range(0, 120, 20)
]
small = fxprune.compress(
    model, batches, flops=0.6, decision="close", groups="structure", progress=False
)
agreement = fxprune.report(small).agreement
print(agreement.examples, len({n // 3 for n in range(120)}))
fxprune.save(small, "affinity.safetensors")
with torch.no_grad():
    both = torch.stack([model(crops[:20]), small(voxels=crops[:20])])
print(round(float(torch.corrcoef(both)[0, 1]), 2))
torch.save({"voxels": crops[:20], "wanted": both[1]}, "check.pt")
"""


def test_a_scientist_takes_home_a_network_on_voxels(desk: Desk) -> None:
    """Regression on 3-D grids, several crops of each structure, batches that are dicts."""
    told = desk.python(AFFINITY)
    examples, correlation = told.splitlines()
    assert int(examples.split()[0]) % 3 == 0, "no structure is split"
    assert float(correlation) > 0.7
    # A colleague, who has the file and not the class.
    assert (
        desk.python("""
import fxprune
import torch

small, held = fxprune.load("affinity.safetensors"), torch.load("check.pt", weights_only=True)
with torch.no_grad():
    torch.testing.assert_close(small(voxels=held["voxels"]), held["wanted"])
print(small(voxels=torch.rand(3, 4, 8, 8, 8)).shape)
""").strip()
        == "torch.Size([3])"
    )


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_a_transformers_user_takes_home_a_smaller_checkpoint(desk: Desk) -> None:
    """A text classifier in a folder, as `save_pretrained` writes it, and tokens as dicts."""
    (desk.folder / "tokens.py").write_text("""
import torch


def loader():
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 60, (96, 12), generator=draw)
    mask = (torch.arange(12) < torch.randint(4, 13, (96, 1), generator=draw)).long()
    return [
        {"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(24), mask.split(24))
    ]
""")
    desk.python("""
import torch
import transformers

torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, num_labels=3, max_position_embeddings=32,
)
transformers.BertForSequenceClassification(config).save_pretrained("reviews")
""")
    words = ("hf:reviews", "--data", "tokens:loader", "--decision", "argmax", "--flops", "0.7")
    done = desk.fxprune("compress", *words, "--method", "uniform", "--out", "small", "--json")
    before, after = done.json["flops"]
    assert after <= 0.7 * before
    told = desk.python("""
import fxprune
import tokens
import torch

small = fxprune.load("small/model.safetensors")
batch = tokens.loader()[0]
with torch.no_grad():
    print(tuple(small(**batch)["logits"].shape))
    # Sentences that are longer, and more of them.
    ids = torch.randint(1, 60, (30, 20))
    print(tuple(small(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"].shape))
""")
    assert told.splitlines() == ["(24, 3)", "(30, 3)"]


def test_a_deployment_engineer_takes_home_a_file_that_runs_without_us(desk: Desk) -> None:
    """Widths that suit the processor, then a program that knows nothing of fxprune."""
    (desk.folder / "shop.py").write_text(SHOP)
    np.savez(
        desk.folder / "calibration.npz",
        x=np.random.default_rng(0).normal(size=(96, 3, 32, 32)).astype(np.float32),
    )
    words = ("shop:make", "--data", "calibration.npz", "--decision", "argmax", "--flops", "0.7")
    found = desk.fxprune(*("compress", *words, "--round-to", "8", "--out", "small", "--json")).json
    assert {row["after"] % 8 for row in found["groups"]} == {0}
    runtimes = {"pt2": "model.pt2"}
    if find_spec("onnxscript") and find_spec("onnxruntime"):
        runtimes["onnx"] = "model.onnx"
    for kind, file in runtimes.items():
        done = desk.fxprune("export", "small", "--to", kind, "--out", file, "--json")
        assert done.json["difference"] < 1e-4
    shutil.rmtree(desk.folder / "small")
    told = desk.python("""
import sys

sys.modules["fxprune"] = None
import numpy as np
import torch

images = np.random.default_rng(1).normal(size=(7, 3, 32, 32)).astype(np.float32)
scores = torch.export.load("model.pt2").module()(torch.from_numpy(images)).detach().numpy()
print(scores.shape)
try:
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    (own,) = session.run(None, {session.get_inputs()[0].name: images})
except Exception as error:
    print(type(error).__name__)
else:
    print(abs(own - scores).max() < 1e-4)
""")
    shape, same = told.splitlines()
    assert shape == "(7, 5)"
    assert "onnx" not in runtimes or same == "True"


WAVE = '''"""A wave lets channels through."""

import torch
from torch import nn

import fxprune

library = torch.library.Library("shore", "DEF")
library.define("wave(Tensor x) -> Tensor")
library.impl("wave", torch.sin, "CompositeExplicitAutograd")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(torch.ops.shore.wave(self.a(x)))
        return y


def test_a_wave_is_pruned_like_the_masked_network() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(40, 3, 8, 8)
    small = fxprune.compress(net, x, flops=0.6, decision="close", progress=False)
    assert small.get_submodule("a").out_channels < 8
    with torch.no_grad():
        torch.testing.assert_close(small(x), fxprune.masked(net, small)(x))
'''


def test_a_contributor_takes_home_a_change_that_passes(tmp_path: Path) -> None:
    """A checkout installed as CONTRIBUTING says, a test that fails, a rule, and it passes."""
    needed = ("tests/test_package.py", "tests/conftest.py", "changelog.d")
    checkout = copy_checkout(tmp_path / "fxprune", needed + PACKAGED)
    desk = Desk(checkout, tmp_path / "env")
    make_environment(desk.environment)
    install(checkout, desk.environment, "-e")
    (checkout / "tests" / "rules").mkdir()
    (checkout / "tests" / "rules" / "test_waves.py").write_text(WAVE)
    python = interpreter(desk.environment)
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    failed = desk.run(python, *tests, "-k", "wave", status=1).out
    assert "1 failed" in failed
    assert "shore.wave" in failed, "it says what it does not know"
    rules = checkout / "fxprune" / "rules" / "pointwise.py"
    rules.write_text(rules.read_text() + '\n\nregister_rule("shore.wave")(pointwise)\n')
    (checkout / "changelog.d" / "waves.added.md").write_text("Waves are known.\n")
    assert "failed" not in desk.run(python, *tests).out
