"""What compressing a model holds in memory: `python -m benchmarks.large --parameters 1e9`.

A random Llama-like language model is written to a folder in shards, opened so that its weights stay
in these files, and compressed on random tokens. Sampled meanwhile, station by station: memory of
the process' own, and pages of files, which the system drops when it needs the room.
"""

import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import fxprune
from benchmarks.examination.resident import Watched, resident, watched
from benchmarks.models.shards import VOCABULARY, llama, llama_config, write_llama
from fxprune.timing.clock import machine_name


def measure(
    folder: Path,
    parameters: float,
    examples: int,
    length: int,
    flops: float,
    vocabulary: int = VOCABULARY,
    **options: Any,
) -> dict[str, Any]:
    """Write, open and compress a model.

    Args:
        folder: for its shards, which stay.
        parameters: about as many.
        examples, length: of the calibration tokens.
        flops: to keep.
        vocabulary: tokens there are.
        options: of `fxprune.compress`.
    """
    config = llama_config(parameters, vocabulary)
    count = write_llama(folder, config)
    before = resident()[0]
    model = llama().LlamaForCausalLM.from_pretrained(folder).eval()
    opened = resident()[0] - before
    tokens = torch.randint(
        config.vocab_size, (examples, length), generator=torch.Generator().manual_seed(1)
    )
    loader = [{"input_ids": part} for part in tokens.split(8)]
    start = time.process_time()
    if options.get("device") is not None:
        torch.accelerator.reset_peak_memory_stats(options["device"])
    with watched() as found, warnings.catch_warnings():
        warnings.simplefilter("ignore", fxprune.CalibrationWarning)
        small = fxprune.compress(model, loader, flops=flops, progress=False, **options)
    seconds = time.process_time() - start
    forward = _forward(model, loader)
    told = fxprune.report(small)
    return {
        "parameters": count,
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "weights": told.bytes[0],
        "small": told.bytes[1],
        "kept": told.flops[1] / told.flops[0],
        "examples": examples,
        "length": length,
        "options": {name: str(value) for name, value in options.items()},
        "seconds": seconds,
        "forward": forward,
        "agreement": None if told.agreement is None else told.agreement.rate,
        "before": before,
        "opened": opened,
        "peak": found.peak,
        "device": None if options.get("device") is None else _held_on(options["device"]),
        "stations": _stations(found),
    }


@torch.no_grad()
def _forward(model: nn.Module, loader: list[dict[str, Tensor]]) -> float:
    """Processor seconds of one pass over the calibration tokens."""
    start = time.process_time()
    for batch in loader:
        model(**batch, use_cache=False)
    return time.process_time() - start


def _held_on(device: str) -> int:
    """Most bytes that tensors took on an accelerator."""
    return torch.accelerator.max_memory_allocated(device)


def _stations(found: Watched) -> list[dict[str, Any]]:
    return [
        {
            "station": name,
            "seconds": found.seconds[name],
            "own": own,
            "held": found.held[name],
            "files": found.files[name],
        }
        for name, own in found.own.items()
    ]


def table(row: dict[str, Any]) -> str:
    """Peaks by station."""
    weights = row["weights"]
    lines = [
        f"{row['parameters'] / 1e6:,.0f} million parameters (width {row['width']}, "
        f"{row['layers']} layers), weights of {weights / 1e9:.2f} GB, {row['examples']} sequences "
        f"of {row['length']} tokens: {row['seconds']:,.0f} s"
        f" of processor time, {row['seconds'] / row['forward']:.0f} forward passes of "
        f"{row['forward']:,.1f} s; peak {row['peak'] / 1e9:.2f} GB, "
        f"{row['peak'] / weights:.2f} times the weights. {row['before'] / 1e9:.2f} GB were held "
        f"before the model was opened, {row['opened'] / 1e9:.2f} GB more afterwards. "
        f"Result: {row['small'] / 1e9:.2f} GB."
        + (f" On the device: {row['device'] / 1e9:.2f} GB." if row["device"] is not None else ""),
        "",
        "| station | processor, s | peak, GB | in weights | held at its end | pages of files |",
        "|---|---|---|---|---|---|",
    ]
    for s in row["stations"]:
        lines.append(
            f"| {s['station']} | {s['seconds']:.1f} | {s['own'] / 1e9:.2f} | "
            f"{s['own'] / weights:.2f} | {s['held'] / 1e9:.2f} | {s['files'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


def main(
    parameters: Annotated[float, typer.Option(help="about as many")] = 1e8,
    examples: Annotated[int, typer.Option(help="sequences to calibrate on")] = 64,
    length: Annotated[int, typer.Option(help="tokens of a sequence")] = 64,
    flops: Annotated[float, typer.Option(help="to keep")] = 0.8,
    memory: Annotated[float, typer.Option(help="bytes that wait in memory, at most")] = 2e9,
    effort: Annotated[int, typer.Option(help="candidates that are tried")] = 2,
    method: Annotated[str, typer.Option(help="of fxprune.compress")] = "auto",
    selector: Annotated[str, typer.Option(help="which channels go first")] = "output-aware",
    device: Annotated[str | None, typer.Option(help="where the work is done")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    log: Annotated[bool, typer.Option(help="show what is done")] = False,
) -> None:
    """Print the table."""
    if log:
        logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        row = measure(
            Path(folder),
            parameters,
            examples,
            length,
            flops,
            memory=memory,
            effort=effort,
            method=method,
            selector=selector,
            device=device,
        )
    row["machine"] = f"{machine_name(torch.device('cpu'))}, {os.cpu_count()} cores"
    if json_file is not None:
        json_file.write_text(json.dumps(row, indent=1))
    print(table(row))


if __name__ == "__main__":
    typer.run(main)
