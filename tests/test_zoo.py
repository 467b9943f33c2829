"""Architectures of transformers from tiny configurations, and a network that came from ONNX."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

if find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

from benchmarks import onnx_net
from benchmarks.examination.examine import examine
from benchmarks.examination.row import Row
from benchmarks.models.entry import Entry
from benchmarks.models.zoo_scenes import SCENES
from benchmarks.models.zoo_sight import SIGHT
from benchmarks.models.zoo_text import TEXT
from benchmarks.models.zoo_transformers import TRANSFORMERS


def test_every_architecture_has_one_name() -> None:
    tables = (TRANSFORMERS, TEXT, SIGHT, SCENES)
    assert len({name for table in tables for name in table}) == sum(map(len, tables))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezebert", "sew-d", "blip-vision"])
def test_a_tiny_configuration_passes(name: str) -> None:
    pytest.importorskip("transformers")
    row = Row(name, "transformers")
    examine(Entry(name, "transformers", (TEXT | SCENES)[name]), row, compiling=False)
    assert row.verdict == "pass"
    assert row.effect > 1e-3, "what was removed counts"


@pytest.mark.slow
def test_a_network_from_onnx_is_compressed_and_written_again(tmp_path: Path) -> None:
    for needed in ("onnx2torch", "onnxruntime"):
        pytest.importorskip(needed, exc_type=ImportError)
    app = typer.Typer()
    app.command()(onnx_net.main)
    out = tmp_path / "page.md"
    arguments = ["--flops", "0.7", "--count", "120", "--tested", "200", "--rounds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "otherwise" not in result.output, "the module decides as the file does"
    assert "| 0.7 | `auto` | 8 |" in out.read_text()
    assert "| 0.7 | `paper-uniform` | 1 |" in out.read_text()
