"""ResNet-18 in plain torch, for real training of a model with 11,689,512 trainable values.

Source: He et al., CVPR 2016, table 1, with GroupNorm in place of BatchNorm (Wu and He, ECCV 2018). BatchNorm's running
statistics are functions of the data without noise and do not belong into a federated update. Both variants have the
same number of trainable values.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 1000
GROUPS = 32
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first block


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.GroupNorm(GROUPS, channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


def resnet18() -> nn.Sequential:
    """float32[n, 3, h, w] -> float32[n, 1000] logits."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.GroupNorm(GROUPS, 64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for channels, stride in STAGES:
        layers += [Block(inputs, channels, stride), Block(channels, channels, 1)]
        inputs = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers)
