"""Abuses of the command line: every option of every command with every odd text, and damaged
files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from benchmarks.abuses.judge import Abuse
from benchmarks.abuses.subjects import rows, saved, small
from fxprune.cli.app import app
from fxprune.errors import FxpruneError
from fxprune.handover.report import report

HERE = "benchmarks.abuses.subjects"
TEXTS = (
    *("", " ", "odd", "-1", "0", "1", "2.5", "nan", "inf", "-inf", "1e400", "9" * 40, "1,2"),
    *("a,b", ",", "None", "[]", "--", "ä€\U0001f600", "/no/such/path", "/dev/null", "/", ".", "*"),
    *("torchvision", ":", "a:b:c", "math:pi", "os:getcwd", f"{HERE}:number", f"{HERE}:failing"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "analyze": ("shape", "data", "size", "ignore"),
    "compress": (
        *("data", "weights", "flops", "params", "agreement", "latency", "latency-batch", "method"),
        *("selector", "ignore", "round-to", "effort", "seed", "batch", "limit", "size", "mean"),
        *("std", "out", "groups", "keep", "targets", "device", "dtype", "html"),
    ),
    "factorize": ("params", "method", "html"),
    "sweep": ("flops", "out"),
    "bench": ("weights", "shape", "data", "batch", "mode", "device", "threads", "rounds", "size"),
    "demo": ("flops", "seed"),
}
SKIPPED = {
    *(("effort", "9" * 40), ("rounds", "9" * 40), ("batch", "9" * 40)),
    *(("out", "/"), ("out", "/no/such/path"), ("data", "/")),
}
"""(option, text) that ask for endless work, or reach beyond the abuses' own folder."""
DEMO = {("demo", "seed", text) for text in ("-1", "0", "1", "9" * 40)} | {("demo", "flops", "1")}
"""(command, option, text) that run the whole demo."""
APART: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
)


def _judged(result: Result) -> None:
    """Raise what a command line must not do; refusals as the error that they print."""
    if result.exit_code in (0, 2) and not isinstance(result.exception, Exception):
        return
    lines = result.stderr.splitlines()
    if result.exit_code == 1 and isinstance(result.exception, SystemExit) and len(lines) == 1:
        raise FxpruneError(lines[0])
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    raise RuntimeError(f"exit code {result.exit_code}, {len(lines)} lines on stderr")


def line(kind: str, arguments: Sequence[str]) -> Abuse:
    """One command line."""

    def run() -> None:
        _judged(CliRunner(**APART).invoke(app, list(arguments)))

    shown = [a if len(a) < 40 else a[:18] + "..." + a[-18:] for a in arguments]
    name = "fxprune " + " ".join(a if a and " " not in a else repr(a) for a in shown)
    return Abuse(name, kind, lambda: (run, []), process=True)


def base(command: str, folder: Path) -> dict[str, str]:
    """Options of a command line that works."""
    return {
        "analyze": {"shape": "6"},
        "compress": {"data": f"{HERE}:loader", "flops": "0.6", "method": "magnitude"},
        "factorize": {"data": f"{HERE}:loader", "params": "0.8", "method": "svd"},
        "sweep": {"data": f"{HERE}:loader", "flops": "0.6", "method": "magnitude"},
        "bench": {"shape": "6", "batch": "1", "mode": "eager", "rounds": "1"},
        "demo": {},
    }[command]


def arguments_of(command: str, folder: Path) -> list[str]:
    """Arguments of a command line that works."""
    first = {"bench": [str(saved(folder))], "demo": []}.get(command, [])
    return [*first, *([] if command == "demo" else [f"{HERE}:model"])]


def line_abuses(folder: Path) -> Iterator[Abuse]:
    """Every one, in a fixed order.

    Args:
        folder: for files.
    """
    for command, options in COMMANDS.items():
        given = arguments_of(command, folder)
        for option in options:
            for text in TEXTS:
                if (option, text) in SKIPPED or (command, option, text) in DEMO:
                    continue
                changed = {**base(command, folder), option: text}
                words = [part for k, v in changed.items() for part in (f"--{k}", v)]
                yield line("odd option", [command, *given, *words])
        words = [part for k, v in base(command, folder).items() for part in (f"--{k}", v)]
        yield line("unknown option", [command, *given, *words, "--odd"])
        yield line("unknown option", [command, *given, *words, "surplus"])
        for at in range(len(given)):
            for text in TEXTS:
                replaced = [*given[:at], text, *given[at + 1 :]]
                yield line("odd argument", [command, *replaced, *words])
            yield line("missing argument", [command, *given[:at], *given[at + 1 :], *words])
    yield from (line("unknown command", [text]) for text in ("odd", "", "--odd", "-x"))
    yield from (line("odd argument", ["report", text]) for text in (*TEXTS, str(folder)))
    yield from _files(folder)


def _files(folder: Path) -> Iterator[Abuse]:
    """Damaged and foreign files where files are read, and places where none can be written."""
    whole = saved(folder).read_bytes()
    text = report(small()).to_json()
    contents: dict[str, bytes] = {
        "empty": b"",
        "text": b"odd",
        "zeros": bytes(4096),
        "half": whole[: len(whole) // 2],
        "one byte": bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]]),
        "header": bytes([*whole[:40], whole[40] ^ 1, *whole[41:]]),
        "huge header": (2**60).to_bytes(8, "little") + whole[8:],
        "null": b"null",
        "list": b"[1, 2]",
        "deep": b"[" * 100_000,
        "half report": text[: len(text) // 2].encode(),
        "report of texts": json.dumps({**json.loads(text), "params": ["a", "b"]}).encode(),
        "report of more": json.dumps({**json.loads(text), "odd": 1}).encode(),
        "latin": "ä".encode("latin-1"),
    }
    makers: dict[str, Callable[[Path], None]] = {
        "objects.npz": lambda p: np.savez(p, x=np.array([{}, []], dtype=object), allow_pickle=True),
        "two.npz": lambda p: np.savez(p, a=rows().numpy(), b=rows().numpy()),
        "texts.npz": lambda p: np.savez(p, x=np.array(["a", "b"])),
        "number.npz": lambda p: np.savez(p, x=np.array(3.0)),
        "wide.npz": lambda p: np.savez(p, x=np.zeros((8, 7), "f4")),
        "complex.npz": lambda p: np.savez(p, x=np.zeros((8, 6), "c8")),
        "nan.npz": lambda p: np.savez(p, x=np.full((8, 6), np.nan, "f4")),
        "empty.npz": lambda p: np.savez(p),
        "bytes.npz": lambda p: np.savez(p, x=np.zeros((8, 6), "u1")),
    }
    model, data = f"{HERE}:model", f"{HERE}:loader"
    for name, content in contents.items():
        for suffix in ("safetensors", "json", "npz", "pt"):
            path = folder / f"{name}.{suffix}".replace(" ", "-")
            path.write_bytes(content)
            yield line("damaged file", ["compress", model, "--data", data, "--weights", str(path)])
            yield line("damaged file", ["bench", str(path), model, "--shape", "6"])
            yield line("damaged file", ["report", str(path)])
            yield line("damaged file", ["compress", model, "--data", str(path)])
    for name, make in makers.items():
        make(folder / name)
        words = ["--data", str(folder / name), "--flops", "0.6", "--method", "magnitude"]
        yield line("damaged file", ["compress", model, *words])
    (folder / "images").mkdir(exist_ok=True)
    yield line("damaged file", ["compress", model, "--data", str(folder / "images")])
    (folder / "images" / "odd.png").write_bytes(b"odd")
    yield line("damaged file", ["compress", model, "--data", str(folder / "images")])
    for out in (folder / "text.json" / "below", Path("/proc/odd"), folder / "empty.json"):
        words = ["--data", data, "--flops", "0.6", "--method", "magnitude", "--out", str(out)]
        yield line("place that cannot be written", ["compress", model, *words])
