"""Every command on a real model, the demo's network: what it prints as JSON against the schema,
where its files are, and the next command, which runs too.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

import fxprune
from fxprune.cli.app import COMMANDS
from fxprune.demo import data
from fxprune.demo.run import vgg
from tests.cli.test_app import bad, call
from tests.test_package import ROOT

SCHEMA = json.loads((ROOT / "docs" / "cli.schema.json").read_text())
VGG = "fxprune.demo.run:vgg"
IMAGES = ("--data", ROOT / "fxprune/demo/fashion_mnist.npz", "--mean", "0.286", "--std", "0.353")
FEW = (*IMAGES, "--limit", "80", "--decision", "argmax")
QUICK = ("--mode", "eager", "--rounds", "1", "--batch", "2")


def run(command: str, *arguments: object) -> tuple[dict[str, Any], list[str]]:
    """The JSON of a command, valid by the schema, and its lines on stderr."""
    result = call(command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{command}"}).validate(found)
    return found, result.stderr.splitlines()


def next_of(lines: list[str]) -> list[str]:
    """The next command, as words."""
    (told,) = [line.removeprefix("Next: ") for line in lines if line.startswith("Next: ")]
    return shlex.split(told)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network at 60 % of its FLOPs."""
    out = tmp_path_factory.mktemp("cli") / "small"
    page = out.parent / "report.html"
    _, lines = run(
        *("compress", VGG, *FEW, "--flops", "0.6", "--method", "uniform"),
        *("--out", out, "--html", page),
    )
    assert f"Wrote model.safetensors, plan.json, report.json in {out}/" in lines
    assert next_of(lines) == ["fxprune", "bench", str(out), VGG]
    assert "<html" in page.read_text()
    return out


def test_every_command_has_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {command.__name__ for command in COMMANDS} <= set(SCHEMA["$defs"])


def test_a_schema_refuses_what_is_not_meant() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator({**SCHEMA, "$ref": "#/$defs/report"}).validate({})


@pytest.mark.slow
def test_bench_and_what_comes_next(small: Path) -> None:
    found, lines = run("bench", small, VGG, *QUICK)
    assert [row["batch"] for row in found["rows"]] == [2]
    assert next_of(lines) == ["fxprune", "export", str(small), "--to", "onnx"]


def test_report(small: Path, tmp_path: Path) -> None:
    found, lines = run("report", small, "--html", tmp_path / "r.html")
    assert found["inputs"] == [{"name": "", "shape": [2, 1, 28, 28], "dtype": "float32"}]
    assert f"Wrote r.html in {tmp_path}/" in lines
    assert "features.<wbr>0" in (tmp_path / "r.html").read_text()
    assert "--html" in bad("report", small, "--html", tmp_path / "none" / "r.html")


def test_analyze_and_its_picture(tmp_path: Path) -> None:
    found, _ = run("analyze", VGG, "--shape", "1,28,28")
    assert len(found["groups"]) == 7
    drawn, lines = run("plot", VGG, "--shape", "1,28,28", "--out", tmp_path / "c.svg")
    assert (drawn["kind"], drawn["bytes"]) == ("channels", (tmp_path / "c.svg").stat().st_size)
    assert f"Wrote c.svg in {tmp_path}/" in lines
    assert ">features.0</text>" in (tmp_path / "c.svg").read_text()


def test_plot_of_a_report(small: Path, tmp_path: Path) -> None:
    drawn, _ = run("plot", small, "--out", tmp_path / "r.png")
    assert drawn["kind"] == "report"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "There is no report" in bad("plot", tmp_path / "nothing", "--out", tmp_path / "a.png")
    assert "holds no report.json" in bad("plot", tmp_path, "--out", tmp_path / "a.png")
    assert "Several" in bad("plot", small, small, "--out", tmp_path / "a.png")
    assert "--out" in bad("plot", small, "--out", tmp_path / "none" / "a.png")


@pytest.mark.slow
def test_sweep_and_its_picture(tmp_path: Path) -> None:
    out = tmp_path / "sizes"
    found, lines = run(
        *("sweep", VGG, *FEW, "--method", "magnitude", "--flops", "0.8", "--flops", "0.5"),
        *("--out", out),
    )
    assert [size["budget"] for size in found["sizes"]] == [0.8, 0.5]
    assert [size["flops"][1] <= size["budget"] * size["flops"][0] for size in found["sizes"]]
    assert sorted(p.name for p in out.iterdir()) == ["0.5", "0.8"]
    assert len([line for line in lines if line.startswith("Wrote model.safetensors")]) == 2
    words = next_of(lines)
    assert words[:3] == ["fxprune", "plot", str(out)]
    drawn, _ = run("plot", out, "--out", tmp_path / "curve.svg")
    assert drawn["kind"] == "sweep"
    run("plot", out, out, "--out", tmp_path / "two.svg")
    assert "no folder of sweep" in bad("plot", out, out / "0.5", "--out", tmp_path / "a.svg")


def test_factorize(tmp_path: Path) -> None:
    found, _ = run("factorize", VGG, *FEW, "--method", "svd", "--params", "0.6", "--out", tmp_path)
    assert found["params"][1] <= 0.6 * found["params"][0]
    # What compress and factorize wrote is a model for them again.
    again, lines = run("factorize", tmp_path, *FEW, "--method", "svd", "--params", "0.9")
    assert again["params"][0] == found["params"][1]
    assert next_of(lines)[-1] == "written.", "nothing was"


def test_a_checkpoint_is_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    result = call("compress", VGG, *FEW, "--flops", "0.5", "--checkpoint", tmp_path)
    assert result.exit_code == 1
    assert "holds something else: thesis.tex" in " ".join(result.stderr.split())


def test_recover(small: Path, tmp_path: Path) -> None:
    found, _ = run("recover", small, VGG, *FEW, "--steps", "2", "--out", tmp_path)
    assert found["recovery"]["steps"] == 2
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a part of its images."""
    held = data.load()
    part = data.DemoData(held.calibration[:200], held.images[:500], held.labels[:500])
    monkeypatch.setattr("fxprune.demo.run.load", lambda: part)
    found, lines = run("demo")
    assert (found["calibration"], found["images"]) == (200, 500)
    original, auto, paper = found["models"]
    assert [model["name"] for model in (original, auto, paper)] == ["original", "auto", "paper"]
    assert original["accuracy"] > 0.9
    for small in (auto, paper):
        assert small["flops"] <= 0.5 * original["flops"]
        assert 0.8 < small["bound"] < small["agreement"]
    assert next_of(lines)[:2] == ["fxprune", "compress"]


@pytest.mark.parametrize("kind", ["pt2", "onnx", pytest.param("aoti", marks=pytest.mark.slow)])
def test_export(kind: str, small: Path, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    file = tmp_path / ("model.onnx" if kind == "onnx" else "model.pt2")
    found, lines = run("export", small, "--to", kind, "--out", file)
    assert (found["format"], found["batch"]) == (kind, "free")
    assert found["difference"] < 1e-4
    assert found["bytes"] == file.stat().st_size
    assert f"Wrote {file.name} in {tmp_path}/" in lines
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_version() -> None:
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout == f"fxprune {fxprune.__version__}, torch {torch.__version__}\n"


def test_parts_of_a_model_go_into_folders_of_their_names(tmp_path: Path) -> None:
    found, lines = run(
        *("compress", VGG, *FEW, "--targets", "features", "--flops", "0.8"),
        *("--method", "uniform", "--out", tmp_path / "parts", "--keep", "0=0.9"),
    )
    assert all(row["name"].startswith("features.") for row in found["groups"])
    part = fxprune.load(tmp_path / "parts" / "features" / "model.safetensors")
    assert fxprune.plan_of(part).widths["0"] >= 29
    assert "fxprune.load" in next_of(lines)[-1]
    whole: Any = vgg()
    whole.features = part
    with torch.no_grad():
        assert whole(data.load().images[:3]).shape == (3, 10)
    assert isinstance(whole, nn.Module)


def test_another_precision(tmp_path: Path) -> None:
    found, _ = run(
        *("compress", VGG, *FEW, "--flops", "0.8", "--method", "magnitude"),
        *("--dtype", "float64", "--device", "cpu", "--out", tmp_path),
    )
    assert found["inputs"][0]["dtype"] == "float64"
    weights = fxprune.load(tmp_path / "model.safetensors").parameters()
    assert {tensor.dtype for tensor in weights} == {torch.float64}
