"""Models from ONNX files, for the command line: through onnx2torch, which makes modules of them."""

from pathlib import Path

from torch import nn

from fxprune.errors import SourceError

INSTALL = 'pip install "fxprune[onnx]" or pip install onnx2torch'


def read_onnx(path: Path) -> nn.Module:
    """The module that an ONNX file holds, with its weights.

    Args:
        path: of the file; weights that it keeps in files beside it are found.

    Raises:
        SourceError: no such file, onnx2torch is not installed, the file is no ONNX model, or it
            holds an operator that onnx2torch does not know.
    """
    if not path.is_file():
        raise SourceError(f"There is no ONNX file {path}.")
    try:
        import onnx
        from onnx2torch import convert
    except ImportError as error:
        raise SourceError(f"Reading {path} needs onnx2torch: {INSTALL} ({error}).") from error
    except Exception as error:  # whatever an import of torchvision that does not fit raises
        raise SourceError(
            f"Reading {path} needs onnx2torch, whose import fails: {_first_line(error)}. Install a "
            "torchvision that fits this torch."
        ) from error
    try:
        held = onnx.load(str(path))
        onnx.checker.check_model(held)
    except Exception as error:  # a damaged file raises whatever its readers stumble over
        raise SourceError(f"{path} is no ONNX model: {_first_line(error)}.") from error
    try:
        made: nn.Module = convert(held)
    except Exception as error:
        opset = max((o.version for o in held.opset_import if not o.domain), default=0)
        raise SourceError(
            f"onnx2torch does not read {path} (opset {opset}): {_first_line(error)}. Export the "
            "model with opset_version=17 or lower, or write it as a torch.nn.Module."
        ) from error
    return made.eval()


def _first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
