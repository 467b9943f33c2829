"""What this code decides on the trained networks, written down, or compared with what other code
wrote: `python -m benchmarks.identity`.

Every method of `compress` at half the FLOPs and of `factorize` at half the parameters, on the
demo's calibration images and one seed. A change that only moves code must reproduce every plan,
every kept index and every output.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import fxprune
from benchmarks.models.nets import NETS, trained
from fxprune.demo.data import load

METHODS = ("auto", "channels", "uniform", "paper", "paper-uniform", "magnitude")
RANK_METHODS = ("pca", "svd", "learned-rank", "alds")


def decided(name: str, method: str, images: int) -> dict[str, Any]:
    """The plan of one network by one method, what certifies it, and the digest of its outputs on
    500 images.
    """
    data, net = load(), trained(name)
    calibration = data.calibration[:images]
    if method in RANK_METHODS:
        small = fxprune.factorize(net, calibration, method=method, params=0.5, progress=False)
    else:
        small = fxprune.compress(net, calibration, method=method, flops=0.5, progress=False)
    plan = json.loads(fxprune.plan_of(small).to_json(sort_keys=True))
    agreement = fxprune.report(small).agreement
    with torch.no_grad():
        outputs = small(data.images[:500]).contiguous()
    assert agreement is not None
    digest = hashlib.sha256(outputs.numpy().tobytes()).hexdigest()
    return {
        "plan": plan,
        "agreement": agreement.rate,
        "error": agreement.error,
        "outputs": digest,
        "mean": float(outputs.double().abs().mean()),
    }


def main(
    out: Annotated[Path | None, typer.Option(help="write what this code decides")] = None,
    against: Annotated[Path | None, typer.Option(help="compare with what other code wrote")] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 500,
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
) -> None:
    """Print a line per network and method; exit with 1 where a plan differs."""
    torch.set_num_threads(2)
    before = json.loads(against.read_text()) if against else {}
    found: dict[str, Any] = {}
    differing = 0
    for name in net or list(NETS):
        for method in (*METHODS, *RANK_METHODS):
            key = f"{name} {method}"
            here = found[key] = decided(name, method, images)
            line = f"{key:28} agreement {here['agreement']:.4f}  error {here['error']:.6e}"
            if before:
                other = before[key]
                plan = "same" if other["plan"] == here["plan"] else "DIFFERENT"
                differing += plan != "same"
                line += (
                    f"  plan {plan}  outputs "
                    f"{'same' if other['outputs'] == here['outputs'] else 'other bits'}"
                )
                line += f"  error before {other['error']:.6e}"
            print(line, flush=True)
    if out is not None:
        out.write_text(json.dumps(found))
    if before:
        print(f"{len(found) - differing} of {len(found)} plans are identical")
    if differing:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
