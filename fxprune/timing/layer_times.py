"""Measured times of single calls, kept in a table on disk: a layer of given shapes is timed once
per machine.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from fxprune.calibrate.observe import arguments
from fxprune.capture.batch import Batch
from fxprune.graph.operators import operator_name
from fxprune.timing.clock import machine_name
from fxprune.timing.workload import Workload

TURNS, TURN = 5, 0.002
"""A call is timed in several short turns, of at least one call each; the fastest counts, since
other work on the machine only adds.
"""


def cache_folder() -> Path:
    """Where tables lie: fxprune's folder where the system keeps the user's caches."""
    from platformdirs import user_cache_path

    return user_cache_path("fxprune", appauthor=False) / "layer-times"


class LayerTimes:
    """Seconds of calls on one device, by operator, shapes, strides, dtypes and numbers.

    Args:
        device, workload: what the times are of; they and torch's version name the file.
        folder: of the tables. An unreadable table counts as empty, and one that cannot be written
            is not kept.
    """

    def __init__(self, device: torch.device, workload: Workload, folder: Path | None = None):
        threads = workload.threads or torch.get_num_threads()
        self.target = (
            f"{machine_name(device)}, {device.type}, {threads} threads, torch {torch.__version__}"
        )
        name = hashlib.sha256(self.target.encode()).hexdigest()[:16]
        self.path = (cache_folder() if folder is None else folder) / f"{name}.json"
        self.seconds: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            stored = json.loads(self.path.read_text())["seconds"]
            self.seconds = {
                str(k): float(v) for k, v in stored.items() if 0 <= float(v) < float("inf")
            }
        self.measured = 0

    def time(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Seconds of one call, measured where the table does not have it."""
        key = f"{target}{_signature(args, kwargs)}"
        if key not in self.seconds:
            if target._schema.is_mutable:
                args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
            self.seconds[key] = measure_call(target, args, kwargs)
            self.measured += 1
        return self.seconds[key]

    def save(self) -> None:
        """Write the table; another process' table written meanwhile is replaced."""
        part = self.path.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"target": self.target, "seconds": self.seconds}, indent=1))
            os.replace(part, self.path)


def measure_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Seconds of one call: the fastest of several short turns."""
    from torch.utils.benchmark import Timer

    timer = Timer(
        "f(*a, **k)",
        globals={"f": target, "a": args, "k": kwargs},
        num_threads=torch.get_num_threads(),
    )
    timer.timeit(1)
    number = max(1, int(TURN / max(timer.timeit(1).mean, 1e-7)))
    return min(timer.timeit(number).mean for _ in range(TURNS))


def _signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def text(item: Any) -> str:
        if isinstance(item, Tensor):
            return (
                f"{str(item.dtype).removeprefix('torch.')}{list(item.shape)}/{list(item.stride())}"
            )
        return repr(item)

    leaves, structure = pytree.tree_flatten((args, kwargs))
    return f"({', '.join(map(text, leaves))}) {len(args)} {sorted(kwargs)} {structure.num_leaves}"


class _Stopwatch(Interpreter):
    """Runs a graph and looks up or measures the time of every operator on the way."""

    def __init__(self, module: GraphModule, table: LayerTimes):
        super().__init__(module)
        self.table, self.seconds = table, dict[str, float]()

    def run_node(self, n: Node) -> Any:
        if (
            n.op == "call_function"
            and isinstance(n.target, torch._ops.OpOverload)
            and operator_name(n.target) not in UNTIMED
        ):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self.seconds[n.name] = self.table.time(n.target, args, kwargs)
        return super().run_node(n)


UNTIMED = frozenset({"aten._assert_scalar", "aten._assert_tensor_metadata", "aten.sym_size"})
"""Checks and sizes, which cost nothing that counts."""


def time_layers(module: GraphModule, batch: Batch, table: LayerTimes) -> dict[str, float]:
    """Seconds of every operator call of a captured graph on a batch, by node name."""
    watch = _Stopwatch(module, table)
    with torch.no_grad():
        watch.run(*arguments(module, batch), enable_io_processing=False)
    return watch.seconds
