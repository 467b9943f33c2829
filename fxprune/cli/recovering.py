"""`fxprune recover`."""

import os

import fxprune
from fxprune.cli import models, options
from fxprune.cli.calibration import Source
from fxprune.cli.parsing import parse_augment, parse_decision
from fxprune.cli.written import check_places, put_out, say_next
from fxprune.recovery.training import Training

TRAINING = Training()
LENGTHS = ("minutes", "steps", "epochs")


def recover(
    small: options.Saved,
    original: options.Model,
    data: options.Data,
    out: options.To,
    weights: options.Weights = None,
    minutes: options.Minutes = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    rate: options.Rate = None,
    optimizer: options.Optimizer = TRAINING.optimizer,
    train_batch: options.TrainBatch = TRAINING.batch,
    augment: options.Augment = None,
    labels: options.Labels = False,
    checkpoint: options.Checkpoint = None,
    decision: options.Decision = None,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = None,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    device: options.Device = None,
    html: options.Html = None,
    as_json: options.Json = False,
) -> list[str]:
    """Train a saved compressed model, without labels, to what its original gives."""
    given = dict(locals())
    check_places(out, html)
    source = Source.of(given | {"model": original})
    net = source.place(models.model(original, weights))
    loader, together = source.read(net)
    better = fxprune.recover(
        source.place(models.load_saved(small)),
        net,
        loader,
        **{name: given[name] for name in LENGTHS},
        training=fxprune.Training(rate=rate, optimizer=optimizer, batch=train_batch),
        augment=parse_augment(augment),
        labels=labels,
        decision=parse_decision(decision),
        groups=together,
        checkpoint=checkpoint,
        seed=seed,
    )
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one writes
        return []
    return [*put_out(better, out, html, as_json), say_next("fxprune", "bench", out, original)]
