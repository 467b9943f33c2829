"""Train a small transformer encoder on Fashion-MNIST, whose rows are its tokens: `python -m
benchmarks.train_encoder`. Some minutes on one core.
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer

from benchmarks.datasets.images import DEBIAN, split
from benchmarks.models.encoder import Encoder, stored
from benchmarks.models.nets import checkpoint, keep_weights
from benchmarks.train import accuracy, augment


def main(
    epochs: int = 10,
    batch: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
    post: Annotated[bool, typer.Option("--post", help="norms behind the sums")] = False,
    data: Path = DEBIAN,
    out: Path | None = None,
) -> None:
    """Train with AdamW on a one-cycle schedule; keep the weights, matrices in float16."""
    torch.manual_seed(seed)
    train, held_out = split("train", data), split("calibration", data)
    net = Encoder(post=post)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    steps = epochs * (len(train.labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    for epoch in range(epochs):
        net.train()
        for index in torch.randperm(len(train.labels)).split(batch):
            if len(index) < batch:
                continue
            loss = F.cross_entropy(net(augment(train.images[index], 1)), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        net.eval()
        found = accuracy(net, held_out.images, held_out.labels)
        print(f"epoch {epoch + 1}: held-out {found:.4f}", flush=True)
    path = out or checkpoint(stored(post))
    keep_weights(net, path)
    test = split("test", data)
    print(
        f"{path.stem}: test accuracy {accuracy(net, test.images, test.labels):.4f}, "
        f"{path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
