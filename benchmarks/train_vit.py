"""Train a small vision transformer on Fashion-MNIST: `python -m benchmarks.train_vit`.

The shipped checkpoint is of the defaults.
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer

from benchmarks.datasets.images import DEBIAN, split
from benchmarks.models.nets import keep_weights
from benchmarks.models.vit import ViT, checkpoint
from benchmarks.train import accuracy, augment


def main(
    epochs: int = 8,
    batch: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
    most: Annotated[int | None, typer.Option(help="training images, for a quick try")] = None,
    data: Path = DEBIAN,
    out: Path | None = None,
) -> None:
    """Train with Adam on a one-cycle schedule; keep the weights, matrices in float16."""
    torch.manual_seed(seed)
    train, held_out = split("train", data), split("calibration", data)
    images, labels = train.images[:most], train.labels[:most]
    net = ViT()
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    for epoch in range(epochs):
        net.train()
        for index in torch.randperm(len(labels)).split(batch):
            if len(index) < batch:
                continue
            loss = F.cross_entropy(net(augment(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        found = accuracy(net, held_out.images, held_out.labels)
        print(f"vit epoch {epoch + 1}: held-out {found:.4f}", flush=True)
    path = out or checkpoint()
    keep_weights(net, path)
    test = split("test", data)
    print(
        f"vit: test accuracy {accuracy(net, test.images, test.labels):.4f}, "
        f"{path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
