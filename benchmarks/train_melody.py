"""Train a recurrent network on synthesized melodies: `python -m benchmarks.train_melody`.

Takes about five minutes on one core; the weights are written where `benchmarks.models.melody`
reads them.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import typer

from benchmarks.datasets.melodies import draw_melodies
from benchmarks.models.melody import CHECKPOINT, MelodyNet
from benchmarks.models.nets import keep_weights

REPORTED = 100
"""Steps from one line to the next."""
TESTED = 4000
"""Melodies that measure the accuracy."""


@torch.no_grad()
def accuracy(net: torch.nn.Module, generator: torch.Generator) -> float:
    """Share of new melodies whose contour is found."""
    hits = 0
    for _ in range(TESTED // 500):
        bands, contours = draw_melodies(500, generator)
        hits += int((net(bands).argmax(1) == contours).sum())
    return hits / TESTED


def main(
    steps: int = 1500,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    out: Path = CHECKPOINT,
) -> None:
    """Train with AdamW on a one-cycle schedule; every example is new. Keep the weights, matrices in
    float16.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = MelodyNet()
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    net.train()
    for step in range(1, steps + 1):
        bands, contours = draw_melodies(batch, generator)
        loss = F.cross_entropy(net(bands), contours)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORTED == 0:
            print(f"step {step}: loss {float(loss.detach()):.3f}", flush=True)
    net.eval()
    keep_weights(net, out)
    other = torch.Generator().manual_seed(seed + 1)
    print(f"{accuracy(net, other):.4f} of new melodies, {out.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)
