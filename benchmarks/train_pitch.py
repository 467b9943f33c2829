"""Train a pitch tracker with wide kernels on synthesized tones: `python -m benchmarks.train_pitch`.

The weights are written where `benchmarks.models.pitch.trained` reads them. An eighth of the
channels takes about half an hour on one core; the whole is for a GPU.
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer

from benchmarks.datasets.tones import draw_tones
from benchmarks.models.nets import keep_weights
from benchmarks.models.pitch import DIVISORS, PitchNet, checkpoint

REPORTED = 100
"""Steps from one line to the next."""
TESTED = 2000
"""Sounds that measure the accuracy."""


@torch.no_grad()
def accuracy(net: torch.nn.Module, generator: torch.Generator, bins: int = 0) -> float:
    """Share of new sounds whose pitch is found, to so many bins."""
    hits = 0
    for _ in range(TESTED // 100):
        sounds, pitches = draw_tones(100, generator)
        hits += int(((net(sounds).argmax(1) - pitches).abs() <= bins).sum())
    return hits / TESTED


def main(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(DIVISORS)}")] = "pitch-eighth",
    steps: int = 3000,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Train with Adam on a one-cycle schedule; every example is new. Keep the weights, those of
    several axes in float16.
    """
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    net = PitchNet(DIVISORS[name]).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    net.train()
    for step in range(1, steps + 1):
        sounds, pitches = draw_tones(batch, generator)
        loss = F.cross_entropy(net(sounds), pitches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % REPORTED == 0:
            print(f"{name} step {step}: loss {float(loss.detach()):.3f}", flush=True)
    net.eval()
    path = out or checkpoint(name)
    keep_weights(net, path)
    other = torch.Generator(device).manual_seed(seed + 1)
    print(
        f"{name}: {accuracy(net, other):.4f} of new sounds to the bin, "
        f"{accuracy(net, other, 1):.4f} to the next one, {path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
