"""Train a causal language model of bytes on the standard library's docstrings:
`python -m benchmarks.train_lm --device cuda --minutes 5`.

The weights kept are those with the least loss on the calibration split; nothing is chosen on the
test split.
"""

import math
import time
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from benchmarks.datasets.docstrings import text, windows
from benchmarks.models.language import BYTES, ByteLM, checkpoint
from benchmarks.models.nets import keep_weights


def loss_of(net: nn.Module, pieces: Tensor) -> Tensor:
    """Mean cross entropy of the bytes after the first, in nats."""
    scores: Tensor = net(pieces)[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, BYTES), pieces[:, 1:].reshape(-1))


@torch.no_grad()
def evaluate(net: nn.Module, pieces: Tensor, batch: int = 64) -> float:
    """The loss in eval mode, over all pieces."""
    was = net.training
    net.eval()
    total = sum(float(loss_of(net, part)) * len(part) for part in pieces.split(batch))
    net.train(was)
    return total / len(pieces)


def main(
    device: str = "cpu",
    minutes: Annotated[float, typer.Option(help="of training; the schedule follows them")] = 5.0,
    steps: Annotated[int | None, typer.Option(help="at most; the schedule follows them")] = None,
    batch: int = 64,
    length: int = 256,
    rate: float = 1e-3,
    seed: int = 0,
    width: int = 256,
    depth: int = 8,
    every: Annotated[int, typer.Option(help="steps between two evaluations")] = 200,
    out: Path | None = None,
) -> None:
    """Train with AdamW, warmed up and then on a cosine; keep the weights, matrices in float16."""
    torch.manual_seed(seed)
    tokens = text("train").to(device)
    held_out, test = (windows(text(s), length, 512).to(device) for s in ("calibration", "test"))
    print(f"{len(tokens):,} bytes to train on", flush=True)
    net = ByteLM(width, depth, hidden=4 * width).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
    start, step, best = time.perf_counter(), 0, math.inf
    state: dict[str, Tensor] = {}
    net.train()
    while True:
        done = max(
            (time.perf_counter() - start) / (60 * minutes), 0.0 if steps is None else step / steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * done))
        if done >= 1 or step % every == 0:
            found = evaluate(net, held_out)
            if found < best:
                best, state = found, {k: v.detach().clone() for k, v in net.state_dict().items()}
            seconds = time.perf_counter() - start
            print(f"step {step}, {seconds:.0f} s: held-out {found / math.log(2):.4f} bits per byte")
        if done >= 1:
            break
        at = torch.randint(len(tokens) - length, (batch,), device=device)
        pieces = tokens[at[:, None] + torch.arange(length, device=device)]
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = loss_of(net, pieces)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
    net.load_state_dict(state)
    _keep(net.eval(), test, out or checkpoint())


def _keep(net: ByteLM, test: Tensor, path: Path) -> None:
    """Write the weights, and say what was written gives on the test split."""
    keep_weights(net.cpu(), path)
    found = evaluate(net.to(test.device), test)
    print(
        f"language: test {found / math.log(2):.4f} bits per byte (perplexity of bytes "
        f"{math.exp(found):.3f}), {path.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
