"""A ResNet-18 for small images and federated training."""

from collections import OrderedDict

import torch
from torch import nn

from simulations.tasks import Shape


class _Block(nn.Module):
    """ResNet's basic block with GroupNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(32, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(32, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(32, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(shape: Shape) -> nn.Module:
    """Build a ResNet-18 for small images: a 3 x 3 stem without pooling, and GroupNorm.

    11 million parameters. BatchNorm's statistics don't average well over clients that see different data;
    GroupNorm has none.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(shape.channels, 64, 3, 1, 1, bias=False)
    layers["norm1"], layers["relu"] = nn.GroupNorm(32, 64), nn.ReLU()
    width = 64
    for stage, (outputs, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
        layers[f"layer{stage}"] = nn.Sequential(_Block(width, outputs, stride), _Block(outputs, outputs, 1))
        width = outputs
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["dense"] = nn.Linear(width, shape.classes)
    return nn.Sequential(layers)
