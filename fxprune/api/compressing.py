"""`fxprune.compress`: the main call."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.groups import Groups
from fxprune.calibrate.padding import Mask
from fxprune.options import DEFAULTS, Options, RoundTo
from fxprune.pipeline import compress_whole
from fxprune.plans.budget import make_budget
from fxprune.plans.methods import WIDTH_METHODS, find_method
from fxprune.targets import compress_targets
from fxprune.timing.workload import Workload
from fxprune.verify.judge import Decision


def compress(
    model: nn.Module,
    calib_loader: Any,
    *,
    flops: float | None = None,
    params: float | None = None,
    agreement: float | None = None,
    latency: float | None = None,
    workload: Workload | None = None,
    method: str = DEFAULTS.method.name,
    selector: str = DEFAULTS.selector,
    decision: Decision = DEFAULTS.decision,
    groups: Groups | None = DEFAULTS.groups,
    example: Any = DEFAULTS.example,
    dynamic_shapes: Any = DEFAULTS.dynamic_shapes,
    mask: Mask = DEFAULTS.mask,
    uniform_across: Sequence[str] | str = DEFAULTS.uniform_across,
    keep_class: bool | Literal["config"] = DEFAULTS.keep_class,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | str = DEFAULTS.ignore,
    keep: Mapping[str, float] | None = DEFAULTS.keep,
    round_to: RoundTo | None = DEFAULTS.round_to,
    progress: bool = DEFAULTS.progress,
    seed: int = DEFAULTS.seed,
    memory: float = DEFAULTS.memory,
    device: str | torch.device | None = DEFAULTS.device,
    effort: int = DEFAULTS.effort,
    checkpoint: str | os.PathLike[str] | None = DEFAULTS.checkpoint,
) -> GraphModule:
    """Make a trained model smaller and faster while it keeps its decisions.

    No labels, no fine-tuning.

    Args:
        model: any nn.Module in any mode. Never modified; mode and random state come back as they
            were.
        calib_loader: an iterable of batches (tensors, (x, y) tuples whose labels are ignored,
            dicts of keyword inputs), or one tensor. It is read once; loaders that shuffle,
            augment or end after one pass are fine.
        flops, params: fractions of the original to keep at most.
        agreement: the smallest model whose one-sided 95 % Clopper-Pearson lower bound of
            agreement, on calibration examples held out from fitting, stays at or above this. With
            no budget at all, 0.99. Sizes are certified in a fixed order, largest first, until one
            fails, so that the bound holds although several were tried (fixed-sequence testing;
            Angelopoulos et al. 2021). The first of them only loses what is redundant.
        latency: fraction of the original's time per call to keep, measured on the workload: layers
            are timed at several widths (once per machine, in a table in the user's cache folder),
            and whole rewritten graphs until the time is within about 5 %.
        workload: what `latency` is measured on; one example per call, eager, where the model is,
            by default. `Workload(measure=...)` takes any function that measures a model.
        method: `auto` (plans of widths are tried, and ones in which layers become two, as by
            `factorize`, where they promise much less error; where time counts, with latency= or
            round_to="auto", layers stay whole); `channels` (widths only); `uniform` (the same
            fraction everywhere, fitted like auto); `paper` and `paper-uniform` (Chee et al.,
            NeurIPS 2022); `magnitude` (smallest weights removed, nothing corrected).
        selector: `output-aware`, `pivoted-qr` or `magnitude`.
        decision: when two outputs are the same decision: "argmax", "sign", "multilabel" or "close",
            a rule of `fxprune.decisions` such as `close(tolerance=0.02)`, a callable (reference
            output, output) -> (N,) bool, or a dict of these by the name or index of an output
            (None: not judged). All floating outputs are judged, and all must agree. By default
            inferred from a few examples where shape and values leave no doubt: largest class where
            values are class scores (they sum to one, or look like logits that a softmax was
            trained on), 5 % relative error for one-sided quantities. In doubt the call asks, under
            agreement= by an error, else by a warning, and 5 % relative error is taken. See
            docs/deciding.md.
        groups: one label per example of what belongs together (frames of a scene, scans of a
            patient): a callable that takes what the loader yields, an array in its order, or the
            key of dict batches. No group is held out and fitted on, and the bound counts groups.
        example: what to trace with; by default two examples of the first batch.
        dynamic_shapes: which axes of the inputs are free in the result, in torch.export's
            convention: `{"input_ids": {0: Dim.DYNAMIC, 1: Dim("length", max=512)}}`. By default
            the number of examples, and lengths and image sizes where the model allows it; batches
            of several lengths or sizes are grouped by them.
        mask: which tokens are real: the name of an input that holds 1 for them and 0 for padding,
            or a callable that takes the model's arguments and gives that, (examples, length). By
            default an input `attention_mask`; False for none. What lies under the padding counts
            neither in the statistics nor in the agreement.
        uniform_across: names (globs) of repeated blocks, `"model.layers.*"`, in which the widths
            are to be equal, as a configuration can say them (`fxprune.to_hf`).
        keep_class: give back a copy of the model itself, of its own class, with smaller layers.
            Channels that its forward does not take in other numbers stay; sizes that are attributes
            of modules (a head's size) are set. Tried out before any work, and compared with the
            graph on the held-out examples. "config": only what the configuration of a model of
            transformers can say, the same in all layers, for `fxprune.to_hf`.
        targets: names of submodules to compress in place, inside a model that cannot be captured
            whole.
        ignore: names (globs) of modules and parameters that must keep their shape.
        keep: least share of the channels to keep, by name (glob) of a module: `{"layer4.*": 0.8,
            "head.*": 1.0}`.
        round_to: widths are multiples of this; `auto` for what the device's kernels use well. 1 by
            default, `auto` where latency is limited.
        progress: show one bar for the call, with the time left, on a terminal or in a notebook.
        effort: how many plans `auto` and `channels` try on calibration examples, and one more
            where these disappoint; past the ones with a reason, the best one's widths are varied.
            With 1 none is tried, and the widths are uniform. As many again are tried with narrower
            residual streams, where there are any; from 3 on also with those of post-norm
            transformers in new coordinates (docs/rotation.md).
        seed: of the split into fitting and held-out examples; the same seed gives the same plan.
        memory: bytes of activations held while fitting before they spill to disk.
        device: such as `cuda`, on which all work on examples is done while the model stays where it
            is: for one that is larger than the device. Weights are brought to it as they are read
            and let go after, the result comes back where the model is. By default where the model
            is, which is faster where it fits. See docs/large.md.
        checkpoint: folder in which what is done is kept, so that the same call goes on where a run
            was killed, gives the same bytes, and returns at once when it was finished. Another
            model, other examples, options or versions are refused by name; of several processes
            the first one's folder counts, and their number may change. See docs/resume.md.

    Returns:
        a torch.fx.GraphModule in eval mode, its parameters under their original names.
        `fxprune.report(small)` tells what happened.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, PlanError, StorageError: each
            says where, what, why and what to do.
    """
    run: dict[str, Any] = {"seed": seed, "memory": memory, "effort": effort, "progress": progress}
    run |= {"round_to": round_to, "checkpoint": checkpoint, "device": device}
    options = Options(
        budget=make_budget(flops, params, agreement, latency),
        method=find_method(method, WIDTH_METHODS),
        selector=selector,
        decision=decision,
        groups=groups,
        example=example,
        dynamic_shapes=dynamic_shapes,
        mask=mask,
        uniform_across=uniform_across,
        keep_class=keep_class,
        ignore=ignore,
        keep=keep,
        workload=DEFAULTS.workload if workload is None else workload,
        **run,
    )
    if targets is not None:
        return compress_targets(model, calib_loader, targets, options)  # type: ignore[return-value]
    return compress_whole(model, calib_loader, options)  # type: ignore[return-value]
