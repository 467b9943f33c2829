"""`fxprune compress`, `factorize` and `sweep`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

import fxprune
from fxprune.cli import models, options
from fxprune.cli.calibration import Source
from fxprune.cli.output import show
from fxprune.cli.parsing import parse_decision, parse_keep, parse_multiple
from fxprune.cli.written import (
    check_folder,
    check_places,
    put_out,
    say_next,
    say_written,
    write_results,
)
from fxprune.distributed.together import current
from fxprune.handover.report import parts_of
from fxprune.options import DEFAULTS

BUDGETS = (0.9, 0.7, 0.5, 0.35)
AS_THEY_ARE = (
    *("flops", "params", "agreement", "latency", "method", "selector", "effort", "seed"),
    "checkpoint",
)
"""Options of compress that the library takes as they stand."""
NOT_KEPT = "Next: the same with --out small/, since no model was written."


def compress(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    flops: options.Flops = None,
    params: options.Params = None,
    agreement: options.Agreement = None,
    latency: options.Latency = None,
    latency_batch: options.LatencyBatch = 1,
    compiled: options.Compiled = False,
    method: options.Method = "auto",
    selector: options.Selector = "output-aware",
    decision: options.Decision = None,
    targets: options.Targets = None,
    ignore: options.Ignore = None,
    keep: options.Keep = None,
    round_to: options.Multiple = "",
    effort: options.Effort = DEFAULTS.effort,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = None,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    device: options.Device = None,
    offload: options.Offload = False,
    dtype: options.DType = None,
    checkpoint: options.Checkpoint = None,
    out: options.Out = None,
    html: options.Html = None,
    as_json: options.Json = False,
) -> list[str]:
    """Compress a model and print the report."""
    given = dict(locals())
    check_places(out, html)
    source = Source.of(given)
    net = source.place(models.model(model, weights))
    loader, labels = source.read(net)
    small = fxprune.compress(
        net,
        loader,
        **{name: given[name] for name in AS_THEY_ARE},
        **parse_texts(given),
        workload=fxprune.Workload(latency_batch, compiled),
        device=source.work,
        groups=labels,
        targets=targets or None,
    )
    return hand_out(small, out, html, as_json, model, weights, data)


def parse_texts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are texts on the command line, as the library takes them."""
    return {
        "decision": parse_decision(given["decision"]),
        "ignore": given["ignore"] or (),
        "keep": parse_keep(given["keep"]),
        "round_to": parse_multiple(given["round_to"]),
    }


def factorize(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    params: options.Params = None,
    flops: options.Flops = None,
    method: options.RankMethod = "pca",
    decision: options.Decision = None,
    ignore: options.Ignore = None,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = None,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    device: options.Device = None,
    offload: options.Offload = False,
    dtype: options.DType = None,
    checkpoint: options.Checkpoint = None,
    out: options.Out = None,
    html: options.Html = None,
    as_json: options.Json = False,
) -> list[str]:
    """Replace layers by two smaller ones where that pays, and print the report; half of the
    parameters without --params and --flops.
    """
    given = dict(locals())
    check_places(out, html)
    source = Source.of(given)
    net = source.place(models.model(model, weights))
    loader, labels = source.read(net)
    small = fxprune.factorize(
        net,
        loader,
        params=params,
        flops=flops,
        method=method,
        decision=parse_decision(decision),
        groups=labels,
        ignore=ignore or (),
        seed=seed,
        checkpoint=checkpoint,
        device=source.work,
    )
    return hand_out(small, out, html, as_json, model, weights, data)


def hand_out(
    small: nn.Module,
    out: Path | None,
    html: Path | None,
    as_json: bool,
    model: str,
    weights: Path | None,
    data: str,
) -> list[str]:
    """Write and print what was made; what to say at the end."""
    written = put_out(small, out, html, as_json)
    if out is None:
        return [*written, NOT_KEPT]
    again = (model, *(("--weights", weights) if weights else ()))
    parts = parts_of(small)
    if "" not in parts:
        name = next(iter(parts))
        loads = f"model.{name} = fxprune.load({str(out / name / models.SAVED)!r})"
        following = say_next("python", "-c", f"...; {loads}")
    elif fxprune.report(small).advice:
        examples = ("--data", data, "--minutes", "10", "--out", "better/")
        following = say_next("fxprune", "recover", out, *again, *examples)
    else:
        following = say_next("fxprune", "bench", out, *again)
    return [*written, following]


def sweep(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    flops: options.Budgets = None,
    method: options.Method = "auto",
    selector: options.Selector = "output-aware",
    decision: options.Decision = None,
    ignore: options.Ignore = None,
    keep: options.Keep = None,
    round_to: options.Multiple = "",
    effort: options.Effort = DEFAULTS.effort,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = None,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    device: options.Device = None,
    offload: options.Offload = False,
    dtype: options.DType = None,
    out: options.SweepOut = None,
    as_json: options.Json = False,
) -> list[str]:
    """Compress a model to several sizes from one calibration."""
    given = dict(locals())
    budgets = tuple(flops or BUDGETS)
    for budget in budgets:
        check_folder(None if out is None else out / f"{budget:g}")
    source = Source.of(given)
    net = source.place(models.model(model, weights))
    loader, labels = source.read(net)
    curve = fxprune.sweep(
        net,
        loader,
        budgets=budgets,
        method=method,
        selector=selector,
        **parse_texts(given),
        groups=labels,
        effort=effort,
        seed=seed,
        device=source.work,
    )
    return put_out_sizes(curve, out, as_json)


def put_out_sizes(curve: Mapping[float, nn.Module], out: Path | None, as_json: bool) -> list[str]:
    """Write and print the sizes of a sweep; what to say at the end."""
    if not current().is_first:
        return []
    reports = {budget: fxprune.report(small) for budget, small in curve.items()}
    rows = [json.loads(result.to_json()) | {"budget": b} for b, result in reports.items()]
    written: list[Path] = []
    for budget, small in curve.items():
        written += write_results(small, None if out is None else out / f"{budget:g}")
    show(tabulate_sweep(reports), json.dumps({"sizes": rows}), as_json)
    if out is None:
        return [NOT_KEPT]
    return [*say_written(written), say_next("fxprune", "plot", out, "--out", "curve.png")]


def tabulate_sweep(reports: Mapping[float, fxprune.Report]) -> Table:
    """A row per size."""
    table = Table(title="Sizes from one calibration", title_justify="left")
    for column in ("asked", "FLOPs", "parameters", "same decision", "at least", "error"):
        table.add_column(column, justify="right")
    for budget, result in reports.items():
        shares = (result.flops, result.params)
        a = result.agreement
        found = ("", "", "") if a is None else (f"{a.rate:.2%}", f"{a.bound:.2%}", f"{a.error:.1e}")
        kept = (f"{after / max(before, 1):.1%}" for before, after in shares)
        table.add_row(f"{budget:g}", *kept, *found)
    return table
