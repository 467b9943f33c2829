"""A pitch tracker with wide kernels, as CREPE's (Kim et al., ICASSP 2018): six 1-D convolutions of
512 and 64 taps on the samples themselves.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.datasets.tones import BINS, SAMPLES
from benchmarks.models.nets import ASSETS

CHANNELS = (1024, 128, 128, 128, 256, 512)
TAPS = (512, 64, 64, 64, 64, 64)
DIVISORS: Mapping[str, int] = {"pitch": 1, "pitch-quarter": 4, "pitch-eighth": 8}
"""By what the channels are divided, by the network's name."""


class PitchNet(nn.Module):
    """Convolution, ReLU, BatchNorm and pooling, six times, and a linear layer.

    Args:
        divisor: of every layer's channels.
    """

    def __init__(self, divisor: int = 1):
        super().__init__()
        channels = (1, *(count // divisor for count in CHANNELS))
        layers: list[nn.Module] = []
        for i, taps in enumerate(TAPS):
            stride = 4 if i == 0 else 1
            layers += [
                nn.ConstantPad1d(((taps - stride) // 2, (taps - stride + 1) // 2), 0.0),
                nn.Conv1d(channels[i], channels[i + 1], taps, stride),
                nn.ReLU(),
                nn.BatchNorm1d(channels[i + 1]),
                nn.MaxPool1d(2),
            ]
        self.features = nn.Sequential(*layers)
        left = SAMPLES // 4 // 2 ** len(TAPS)
        self.head = nn.Linear(channels[-1] * left, BINS)

    def forward(self, sound: Tensor) -> Tensor:
        """Logits (N, `BINS`) of sounds (N, `SAMPLES`)."""
        logits: Tensor = self.head(self.features(sound[:, None]).flatten(1))
        return logits


def checkpoint(name: str) -> Path:
    """Where the trained weights of a network lie."""
    return ASSETS / f"{name}.safetensors"


def trained(name: str) -> nn.Module:
    """A network of `DIVISORS` with its trained weights, float32, in eval mode.

    Raises:
        FileNotFoundError: train it: python -m benchmarks.train_pitch NAME
    """
    net = PitchNet(DIVISORS[name])
    state = {k: v.to(torch.float32) for k, v in load_file(checkpoint(name)).items()}
    net.load_state_dict(state)
    return net.eval()
