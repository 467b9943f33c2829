"""`fxprune demo`, `analyze`, `report` and `plot`."""

import json
from pathlib import Path
from typing import Any

import fxprune
from fxprune.cli import models, options
from fxprune.cli.calibration import Source
from fxprune.cli.output import show, tabulate, write_json
from fxprune.cli.written import check_file, say_next, say_written
from fxprune.demo import run as demo_run
from fxprune.drawing.plot import Curve
from fxprune.errors import SourceError


def demo(flops: options.Share = 0.5, seed: int = 0, as_json: options.Json = False) -> list[str]:
    """Compress a small trained network that comes with fxprune and show what it costs and gains."""
    result = demo_run.run(flops, seed)
    show(result, json.dumps(result.to_dict()), as_json)
    return [_next_compress("PACKAGE.MODULE:FACTORY")]


def _next_compress(model: str, data: str = "") -> str:
    return say_next(
        *("fxprune", "compress", model, "--data", data or "DATA"),
        *("--flops", "0.5", "--out", "small/"),
    )


def analyze(
    model: options.Model,
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = None,
    gray: options.Gray = False,
    ignore: options.Ignore = None,
    as_json: options.Json = False,
) -> list[str]:
    """List the channel groups of a model and what is left alone, with reasons; reads no weights."""
    net = models.model(model, trained=False)
    source = Source(model=model, shape=shape, data=data, size=size, gray=gray)
    analysis = fxprune.analyze(net, source.example(net), ignore=ignore or ())
    show(tabulate(analysis), write_json(analysis), as_json)
    return [_next_compress(model, data)]


def report(
    path: options.ReportPath, html: options.Html = None, as_json: options.Json = False
) -> list[str]:
    """Print a saved report."""
    check_file(html, "--html")
    result = read_report(path)
    show(result, result.to_json(), as_json)
    if html is None:
        return [say_next("fxprune", "report", path, "--html", "report.html")]
    result.to_html(html)
    return [*say_written([html]), say_next("fxprune", "plot", path, "--out", "layers.png")]


def plot(
    what: options.Drawn,
    out: options.Picture = Path("picture.png"),
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = None,
    gray: options.Gray = False,
    as_json: options.Json = False,
) -> list[str]:
    """Draw a trade-off, what a compressed model kept, or the channel graph of a model."""
    check_file(out, "--out")
    kind, drawn = read_drawn(
        what, Source(model=what[0], shape=shape, data=data, size=size, gray=gray)
    )
    fxprune.plot(drawn, out)
    found = {"kind": kind, "file": str(out), "bytes": out.stat().st_size}
    show(f"Drew {kind}.", json.dumps(found), as_json)
    if kind == "channels":
        return [*say_written([out]), _next_compress(what[0], data)]
    saved = Path(what[0]) if Path(what[0]).is_dir() else Path(what[0]).parent
    if kind == "sweep":
        saved = min(saved.glob(f"*/{models.SAVED}"), default=saved / models.SAVED).parent
    return [*say_written([out]), say_next("fxprune", "export", saved, "--to", "onnx")]


def read_drawn(what: list[str], source: Source) -> tuple[str, Any]:
    """What is to be drawn, and its kind: `channels`, `report` or `sweep`.

    Raises:
        SourceError: there is no such thing, or several that do not go together.
    """
    paths = [Path(text) for text in what]
    sweeps = [path for path in paths if path.is_dir() and not (path / "report.json").is_file()]
    if sweeps:
        if len(sweeps) < len(paths):
            other = next(path for path in paths if path not in sweeps)
            raise SourceError(f"{other} is no folder of sweep. Draw it on its own.")
        curves: dict[str, Curve] = {str(path): read_sizes(path) for path in sweeps}
        return "sweep", curves if len(curves) > 1 else next(iter(curves.values()))
    if len(paths) > 1:
        raise SourceError("Several folders are drawn together where sweep wrote them. Name one.")
    if not paths[0].exists() and ":" in what[0]:
        net = models.model(what[0], trained=False)
        return "channels", fxprune.analyze(net, source.example(net))
    return "report", read_report(paths[0])


def read_sizes(folder: Path) -> dict[float, fxprune.Report]:
    """The reports that `sweep --out` wrote, by what was asked for.

    Raises:
        SourceError: there are none.
    """
    found: dict[float, fxprune.Report] = {}
    for file in sorted(folder.glob("*/report.json")):
        try:
            found[float(file.parent.name)] = read_report(file)
        except ValueError:
            continue
    if not found:
        raise SourceError(
            f"{folder} holds no report.json of compress, nor folders of sweep, such as 0.5/."
        )
    return found


def read_report(file: Path) -> fxprune.Report:
    """A report.json, or the one in a folder.

    Raises:
        SourceError: there is no such file.
        PlanError: it is no report.
    """
    file = file / "report.json" if file.is_dir() else file
    if not file.is_file():
        raise SourceError(f"There is no report {file}.")
    try:
        return fxprune.Report.from_json(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise fxprune.PlanError(f"{file} is not a report: {error}.") from error
