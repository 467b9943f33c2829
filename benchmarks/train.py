"""Train the benchmark networks on Fashion-MNIST: `python -m benchmarks.train vgg`.

The shipped checkpoints: vgg and resnet20 with the defaults, mobilenet and densenet with `--epochs
10`, mlp with `--epochs 12 --rate 0.05 --no-shift`.
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from benchmarks.datasets.images import DEBIAN, split
from benchmarks.models.nets import NETS, checkpoint, keep_weights


def augment(images: Tensor, pad: int = 2) -> Tensor:
    """Flip half of the images left to right and shift each by up to `pad` pixels."""
    count, _, height, width = images.shape
    flip = torch.rand(count, 1, 1, 1) < 0.5
    images = F.pad(torch.where(flip, images.flip(3), images), [pad] * 4, value=float(images.min()))
    rows = torch.randint(0, 2 * pad + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * pad + 1, (count, 1)) + torch.arange(width)
    index = torch.arange(count)[:, None, None]
    return images[index, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


@torch.no_grad()
def accuracy(net: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    hits = sum(
        int((net(x).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def main(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(NETS)}")],
    epochs: int = 14,
    batch: int = 128,
    rate: float = 0.1,
    seed: int = 0,
    shift: Annotated[bool, typer.Option(help="flip and shift the training images")] = True,
    data: Path = DEBIAN,
    out: Path | None = None,
) -> None:
    """Train with SGD on a one-cycle schedule in bfloat16; keep the weights, matrices in float16."""
    torch.manual_seed(seed)
    train, held_out = split("train", data), split("calibration", data)
    net = NETS[name]().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = epochs * (len(train.labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    for epoch in range(epochs):
        net.train()
        for index in torch.randperm(len(train.labels)).split(batch):
            if len(index) < batch:
                continue
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(augment(train.images[index]) if shift else train.images[index])
            loss = F.cross_entropy(logits.float(), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        print(
            f"{name} epoch {epoch + 1}: held-out "
            f"{accuracy(net, held_out.images, held_out.labels):.4f}",
            flush=True,
        )
    path = out or checkpoint(name)
    keep_weights(net, path)
    test = split("test", data)
    print(
        f"{name}: test accuracy {accuracy(net, test.images, test.labels):.4f}, "
        f"{path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
