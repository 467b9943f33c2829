"""ONNX files on the command line: compressed like any model, and refused where they cannot be."""

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fxprune
from fxprune.cli import models
from fxprune.errors import SourceError
from tests.cli.test_app import bad, good


@pytest.fixture
def importer() -> None:
    """onnx2torch, where it is there and can be imported."""
    # A torchvision that does not fit this torch is imported with its operators declared.
    with contextlib.suppress(ImportError, RuntimeError):
        importlib.import_module("benchmarks.models.torchvision_ops")
    try:
        importlib.import_module("onnx2torch")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"onnx2torch cannot be imported: {error}")


def write(path: Path, operator: str = "Relu", opset: int = 17) -> None:
    """Two convolutions with an operator between them, a mean and a linear layer, by hand."""
    onnx: Any = importlib.import_module("onnx")
    helper = onnx.helper
    draw = np.random.default_rng(0)
    weights = {
        "first": draw.normal(size=(8, 3, 3, 3)),
        "second": draw.normal(size=(6, 8, 3, 3)) / 5,
        "head": draw.normal(size=(4, 6)),
        "bias": draw.normal(size=4),
    }
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "bias"], ["scores"], transB=1),
    ]
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", number, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", number, ["batch", 4])],
        [
            onnx.numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    held = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(held, str(path))


@pytest.mark.slow
def test_a_file_is_analyzed_and_compressed(folder: Path, importer: None) -> None:
    write(Path("model.onnx"))
    assert "8" in good("analyze", "model.onnx", "--shape", "3,8,8")
    images = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    np.savez("data.npz", x=images.numpy())
    options = ("--data", "data.npz", "--flops", "0.6", "--decision", "argmax", "--out", "out")
    assert "FLOPs" in good("compress", "model.onnx", *options)
    small, original = fxprune.load(Path("out") / "model.safetensors"), models.model("model.onnx")
    before, after = fxprune.report(small).flops
    assert after <= 0.6 * before
    with torch.no_grad():
        torch.testing.assert_close(small(images[:5]), fxprune.masked(original, small)(images[:5]))
    quick = ("--mode", "eager", "--rounds", "1", "--batch", "2")
    assert "speedup" in good("bench", "out", "model.onnx", "--data", "data.npz", *quick)


@pytest.mark.slow
def test_what_is_no_model_or_holds_what_is_not_known_is_refused(
    folder: Path, importer: None
) -> None:
    Path("broken.onnx").write_bytes(b"no model")
    assert "broken.onnx is no ONNX model" in bad("analyze", "broken.onnx", "--shape", "3,8,8")
    write(Path("new.onnx"), "Mish", opset=18)
    line = bad("analyze", "new.onnx", "--shape", "3,8,8")
    assert "onnx2torch does not read new.onnx (opset 18)" in line
    assert "Mish" in line
    assert "opset_version=17" in line


def test_a_missing_file_and_weights_beside_it_are_refused(folder: Path) -> None:
    assert "There is no ONNX file none.onnx" in bad("analyze", "none.onnx", "--shape", "3,8,8")
    with pytest.raises(SourceError, match="brings its own weights. Leave out --weights w.pt"):
        models.model("none.onnx", Path("w.pt"))


def test_without_the_importer_the_error_names_the_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    line = bad("analyze", "model.onnx", "--shape", "3,8,8")
    assert 'pip install "fxprune[onnx]" or pip install onnx2torch' in line
