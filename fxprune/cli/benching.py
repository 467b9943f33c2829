"""`fxprune bench`."""

import fxprune
from fxprune.cli import models, options
from fxprune.cli.calibration import Source
from fxprune.cli.output import show
from fxprune.cli.parsing import parse_device, parse_dtype
from fxprune.cli.written import say_next
from fxprune.timing.benchmark import MODES


def bench(
    small: options.Saved,
    original: options.Model,
    weights: options.Weights = None,
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = None,
    gray: options.Gray = False,
    batch: options.Batches = None,
    mode: options.Modes = None,
    device: options.Device = None,
    dtype: options.DType = None,
    threads: options.Threads = None,
    rounds: options.Rounds = 15,
    as_json: options.Json = False,
) -> list[str]:
    """Measure a saved compressed model beside its original: latency and memory, taking turns, on
    examples like those that it was compressed with where neither --shape nor --data is named.
    """
    parse_device(device)
    net = models.model(original, weights, trained=False)
    compressed = models.load_saved(small)
    source = Source(model=original, shape=shape, data=data, size=size, gray=gray)
    result = fxprune.benchmark(
        compressed,
        net,
        source.example(net, compressed),
        batches=batch or (1, 32),
        modes=mode or MODES,
        device=device,
        dtype=parse_dtype(dtype),
        threads=threads,
        rounds=rounds,
    )
    show(result, result.to_json(), as_json)
    return [say_next("fxprune", "export", small, "--to", "onnx")]
