"""`fxprune export`: ONNX, torch.export's .pt2 and AOTInductor, each checked against eager."""

import json
from dataclasses import asdict
from pathlib import Path

from fxprune.capture.batch import example_batch
from fxprune.cli import models, options
from fxprune.cli.calibration import Source
from fxprune.cli.output import show
from fxprune.cli.runtimes import FORMATS, export_checked
from fxprune.cli.written import check_file, say_next, say_written
from fxprune.errors import SourceError


def export(
    model: options.Exported,
    to: options.Format = "onnx",
    weights: options.Weights = None,
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = None,
    gray: options.Gray = False,
    out: options.ExportOut = None,
    as_json: options.Json = False,
) -> list[str]:
    """Write a model for another runtime, once its outputs there are those that it gives here."""
    if to not in FORMATS:
        raise SourceError(f"--to {to!r} is not one of {', '.join(FORMATS)}.")
    form, saved = FORMATS[to], Path(model)
    folder = saved if saved.is_dir() else saved.parent if saved.is_file() else Path()
    file = out or folder / form.name
    suffix = Path(form.name).suffix
    if file.suffix != suffix:
        raise SourceError(f"--out {file}: a file of {to} ends in {suffix}.")
    check_file(file, "--out")
    form.require()
    net = models.load_saved(saved) if saved.exists() else models.model(model, weights)
    source = Source(model=model, shape=shape, data=data, size=size, gray=gray)
    done = export_checked(net, example_batch(net, source.example(net)), to, file)
    text = (
        f"{to}: run by {done.runtime}, outputs differ from the model's by at most "
        f"{done.difference:.1e} of the largest one. Number of examples per call: {done.batch}."
    )
    show(text, json.dumps(asdict(done)), as_json)
    return [*say_written([file]), say_next("python", "-c", form.example.format(file=str(file)))]
