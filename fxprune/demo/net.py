"""The demo network: a plain VGG with BatchNorm and a two-layer classifier for 28 x 28 gray
images.
"""

from torch import Tensor, nn


class VGG(nn.Module):
    """Six 3 x 3 convolutions in three stages, each with BatchNorm and ReLU, then two linear layers.

    Args:
        classes: number of logits.
        widths: channels of the two convolutions of each stage.
        hidden: width of the classifier's hidden layer.

    Shapes: (N, 1, 28, 28) float images to (N, classes) logits.
    """

    def __init__(
        self, classes: int = 10, widths: tuple[int, ...] = (32, 64, 128), hidden: int = 256
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in widths:
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 9, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
