"""The command line, on tiny networks."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import fxprune
from fxprune.cli import models, sources
from fxprune.cli.app import COMMANDS, app
from fxprune.errors import SourceError
from tests.nets import images, tiny

TINY, LOADER = "tests.nets:tiny", "tests.nets:loader"


# Before click 8.2, a runner keeps the two streams apart only where it is told to.
APART: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
)


def call(*arguments: object) -> Result:
    return CliRunner(**APART).invoke(app, [str(a) for a in arguments])


def good(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*arguments: object) -> str:
    """One line on stderr, nothing on stdout, exit code 1."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("fxprune: ")
    return line


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = good("--help")
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert command.__name__ in text
        told = good(command.__name__, "--help")
        assert "--json" in told
        assert "…" not in told, "no word is cut off"


def test_analyze() -> None:
    assert "first" in good("analyze", TINY, "--shape", "3,8,8")
    found = json.loads(good("analyze", TINY, "--data", LOADER, "--json"))
    assert [g["channels"] for g in found["groups"]] == [8, 8, 16]
    assert any(row["reason"] for row in found["alone"])


def test_compress_writes_and_report_reads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = json.loads(
        good("compress", TINY, "--data", LOADER, "--flops", "0.5", "--out", out, "--json")
    )
    assert found["flops"][1] <= 0.5 * found["flops"][0]
    weights, plan = (
        load_file(out / "model.safetensors"),
        json.loads((out / "plan.json").read_text()),
    )
    assert set(weights) == set(tiny().state_dict())
    for name, axes in plan["kept"].items():
        for axis, kept in axes.items():
            assert weights[name].shape[int(axis)] == len(kept)
    assert json.loads((out / "report.json").read_text()) == found
    with torch.no_grad():
        assert fxprune.load(out / "model.safetensors")(images(3)).shape == (3, 4)
    text = good("report", out)
    assert "Channel groups" in text
    assert json.loads(good("report", out / "report.json", "--json")) == found


@pytest.mark.slow
def test_compress_by_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.timing.layer_times.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(
        "fxprune.timing.latency_probe.LatencyProbe.ratio", lambda probe, small: 0.99
    )
    quick = ("compress", TINY, "--data", LOADER, "--method", "magnitude")
    found = json.loads(good(*quick, "--latency", "1.0", "--latency-batch", "8", "--json"))
    assert found["notes"][-1] == "measured latency: 0.990 of the original's time, eager, batch 8"
    assert "'half' is neither a whole number nor auto" in bad(
        *quick, "--flops", "0.5", "--round-to", "half"
    )
    found = json.loads(good(*quick, "--flops", "0.5", "--round-to", "4", "--json"))
    assert all(row["after"] % 4 == 0 for row in found["groups"])


def test_bench(tmp_path: Path) -> None:
    good(
        "compress",
        TINY,
        "--data",
        LOADER,
        "--flops",
        "0.5",
        "--method",
        "magnitude",
        "--out",
        tmp_path,
        "--json",
    )
    quick = ("--mode", "eager", "--rounds", "1", "--batch", "2")
    found = json.loads(
        good(
            "bench",
            tmp_path / "model.safetensors",
            TINY,
            "--shape",
            "3,8,8",
            *quick,
            "--batch",
            "1",
            "--json",
        )
    )
    assert [(r["mode"], r["batch"]) for r in found["rows"]] == [("eager", 2), ("eager", 1)]
    assert "speedup" in good("bench", tmp_path, TINY, "--data", LOADER, *quick)
    assert "no such file" in bad("bench", tmp_path / "nothing", TINY, "--shape", "3,8,8", *quick)
    assert "speedup" in good("bench", tmp_path, TINY, *quick), "as the README prints it"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["inputs"] == [{"name": "", "shape": [2, 3, 8, 8], "dtype": "float32"}]
    assert "'fast' is not one of" in bad(
        "bench", tmp_path, TINY, "--shape", "3,8,8", "--mode", "fast"
    )


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped"])
def test_weights(kind: str, tmp_path: Path) -> None:
    state = {k: v + 1 if v.is_floating_point() else v for k, v in tiny().state_dict().items()}
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "pt" else {"state_dict": state, "epoch": 3}, path)
    loaded = models.model(TINY, path).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


def test_array_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=images(80).numpy(), labels=np.zeros(80))
    found = json.loads(
        good(
            "compress",
            TINY,
            "--data",
            tmp_path / "a.npz",
            "--flops",
            "0.6",
            "--method",
            "paper",
            "--json",
        )
    )
    assert found["method"] == "paper"
    np.savez(tmp_path / "b.npz", np.full((4, 8, 8, 3), 255, np.uint8))
    (batch,) = sources.data(
        str(tmp_path / "b.npz"), sources.ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    assert batch.shape == (4, 3, 8, 8)
    assert bool((batch == 1).all())


def test_image_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for i in range(70):
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).save(
            tmp_path / str(i % 2) / f"{i}.png"
        )
    found = json.loads(
        good(
            "compress",
            TINY,
            "--data",
            tmp_path,
            "--size",
            "8",
            "--flops",
            "0.6",
            "--limit",
            "64",
            "--json",
        )
    )
    assert found["agreement"]["examples"] == 12
    folder = sources.ImageFolder(tmp_path, sources.ImageOptions(8, gray=True), 50, None)
    assert [tuple(b.shape) for b in folder] == [(50, 1, 8, 8), (20, 1, 8, 8)]
    assert len(folder) == 2


def test_errors_are_one_line(tmp_path: Path) -> None:
    run = ("compress", TINY, "--data", LOADER)
    assert "at most 1" in bad(*run, "--flops", "2")
    assert "best" in bad(*run, "--method", "best")
    assert "nowhere" in bad(*run, "--flops", "0.5", "--ignore", "nowhere")
    assert "package.module:factory" in bad("compress", "tiny", "--data", LOADER)
    assert "no_such_module" in bad("compress", "no_such_module:tiny", "--data", LOADER)
    assert "no nothing" in bad("compress", "tests.nets:nothing", "--data", LOADER)
    assert "gives a int" in bad("compress", "tests.nets:not_a_model", "--data", LOADER)
    assert "no weights file" in bad(*run, "--weights", tmp_path / "none.safetensors")
    assert "no data at" in bad("compress", TINY, "--data", tmp_path / "none")
    assert "no image" in bad("compress", TINY, "--data", tmp_path)
    assert "--shape" in bad("analyze", TINY)
    assert "--shape" in bad("analyze", TINY, "--shape", "3,x")
    assert "no report" in bad("report", tmp_path)
    (tmp_path / "r.json").write_text("{}")
    assert "not a report" in bad("report", tmp_path / "r.json")
    assert "numbers" in bad(*run, "--mean", "a,b")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    (tmp_path / "w.pt").write_bytes(b"nonsense")
    torch.save(torch.nn.ReLU(), tmp_path / "module.pt")
    for name in ("w.safetensors", "w.pt", "module.pt"):
        with pytest.raises(SourceError, match="neither safetensors nor a weights-only state dict"):
            models.state_dict(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SourceError, match="no state dict"):
        models.state_dict(tmp_path / "list.pt")
    state = tiny().state_dict()
    state["first.weight"] = state["first.weight"][:3]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(SourceError, match=r"does not fit Tiny.*first\.weight"):
        models.model(TINY, tmp_path / "other.safetensors")
    np.savez(tmp_path / "c.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(SourceError, match="holds the arrays"):
        sources.data(str(tmp_path / "c.npz"), sources.ImageOptions())


def test_pillow_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(SourceError, match="pip install pillow"):
        sources.data(str(tmp_path), sources.ImageOptions())


def test_recover_trains_what_compress_wrote(tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "out"
    good(
        *("compress", TINY, "--data", LOADER, "--flops", "0.5", "--decision", "argmax"),
        "--out",
        small,
    )
    arguments = ("recover", small, TINY, "--data", LOADER, "--out", out, "--decision", "argmax")
    found = json.loads(good(*arguments, "--steps", "3", "--augment", "none", "--json"))
    assert found["recovery"]["steps"] == 3
    assert json.loads((out / "report.json").read_text()) == found
    assert "Recovered in 3 steps" in good("report", out)
    assert "minutes=, steps= or epochs=" in bad(*arguments)
    assert "augment='x'" in bad(*arguments, "--steps", "3", "--augment", "x")
