"""A network over time: 1-D convolutions, two GRUs, the last one both ways, and a linear layer."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.datasets.melodies import BANDS, CLASSES
from benchmarks.models.nets import ASSETS


class MelodyNet(nn.Module):
    """Two convolutions along the frames, a GRU, a GRU in both directions, the mean over time.

    Args:
        width: units of every layer; the last GRU has half as many in each direction.
    """

    def __init__(self, width: int = 96):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(BANDS, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self.forth = nn.GRU(width, width, batch_first=True)
        self.both = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, bands: Tensor) -> Tensor:
        """Logits (N, `CLASSES`) of energies (N, `BANDS`, frames)."""
        steps, _ = self.forth(self.features(bands).transpose(1, 2))
        steps, _ = self.both(steps)
        logits: Tensor = self.head(steps.mean(1))
        return logits


CHECKPOINT = ASSETS / "melody.safetensors"


def trained(path: Path = CHECKPOINT) -> MelodyNet:
    """The network with its trained weights, float32, in eval mode.

    Raises:
        FileNotFoundError: train it: python -m benchmarks.train_melody
    """
    net = MelodyNet()
    net.load_state_dict({k: v.to(net.state_dict()[k].dtype) for k, v in load_file(path).items()})
    return net.eval()
