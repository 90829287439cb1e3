"""What every network is, and the published architectures beside the ConvNet, in their forms for small images.

Shapes are (channels, height, width) of an image. A one-channel 28 px image is padded to 32 px by the first convolution.
Networks are built, and named, through `condense.networks`.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from condense.errors import UserError
from condense.networks.base import (
    InstanceNorm,
    Network,
    Norm,
    Shape,
    Staged,
    conv,
    extra_padding,
    halve,
)


def alexnet(shape: Shape, num_classes: int) -> Network:
    """AlexNet (Krizhevsky et al., 2012) for 32 px: five convolutions, one linear layer."""
    stages = [
        (conv(shape[0], 128, 5, padding=2 + extra_padding(shape)), halve()),
        (conv(128, 192, 5, padding=2), halve()),
        (conv(192, 256, 3, padding=1), nn.Identity()),
        (conv(256, 192, 3, padding=1), nn.Identity()),
        (conv(192, 192, 3, padding=1), halve()),
    ]
    return Staged(stages, shape, num_classes)


def vgg11(shape: Shape, num_classes: int, norm: Norm | None = None) -> Network:
    """VGG-11 (Simonyan and Zisserman, 2015) for 32 px: eight convolutions, one linear layer."""
    widths = [shape[0], 64, 128, 256, 256, 512, 512, 512, 512]
    pooled = [True, True, False, True, False, True, False, True]
    paddings = [1 + extra_padding(shape), *[1] * 7]
    stages = [
        (conv(inputs, outputs, 3, padding=padding, norm=norm), halve() if pool else nn.Identity())
        for (inputs, outputs), padding, pool in zip(pairwise(widths), paddings, pooled, strict=True)
    ]
    return Staged(stages, shape, num_classes)


def lenet(shape: Shape, num_classes: int) -> Network:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling."""
    stages = [
        (conv(shape[0], 6, 5, padding=extra_padding(shape)), nn.MaxPool2d(2)),
        (conv(6, 16, 5, padding=0), nn.MaxPool2d(2)),
    ]
    return Staged(stages, shape, num_classes, hidden=(120, 84))


def mlp(shape: Shape, num_classes: int) -> Network:
    """Two hidden layers of 128; their maps are [N, 128, 1, 1]."""
    sizes = [(shape[0] * shape[1] * shape[2], 128), (128, 128)]
    layers = [
        nn.Sequential(
            nn.Flatten(), nn.Linear(*size), nn.ReLU(inplace=True), nn.Unflatten(1, (-1, 1, 1))
        )
        for size in sizes
    ]
    return Staged([(layer, nn.Identity()) for layer in layers], shape, num_classes)


class Residual(nn.Module):
    """The basic block of ResNet: two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        same = stride == 1 and inputs == outputs
        project = [] if same else [nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs)]
        self.shortcut = nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(shape: Shape, num_classes: int, norm: Norm) -> Network:
    """ResNet-18 (He et al., 2016) for 32 px: a 3x3 stem without pooling, global average pooling; a map a stage of two blocks."""
    stem = nn.Conv2d(shape[0], 64, 3, padding=1 + extra_padding(shape), bias=False)
    bodies = [
        nn.Sequential(
            stem,
            norm(64),
            nn.ReLU(inplace=True),
            Residual(64, 64, 1, norm),
            Residual(64, 64, 1, norm),
        )
    ]
    bodies += [
        nn.Sequential(Residual(width // 2, width, 2, norm), Residual(width, width, 1, norm))
        for width in (128, 256, 512)
    ]
    pools = [nn.Identity(), nn.Identity(), nn.Identity(), nn.AdaptiveAvgPool2d(1)]
    return Staged(list(zip(bodies, pools, strict=True)), shape, num_classes)


class EncoderBlock(nn.Module):
    """A Transformer encoder block, normalised first, on tokens [N, T, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.project(self._attend(self.norm(tokens)))
        return tokens + self.mlp(tokens)

    def _attend(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [N, heads, T, width / heads]
        # Written out: the fused attention has no second derivative, which gradient matching needs.
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class VisionTransformer(Network):
    """ViT (Dosovitskiy et al., 2021). A map is the grid of a block's patch tokens; the embedding is the last class token."""

    def __init__(
        self, shape: Shape, num_classes: int, *, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        channels, height, side = shape
        patch = max(1, round(min(height, side) / 8))
        if height % patch or side % patch:
            raise UserError(
                f"`vit-tiny` cuts {height} x {side} px images into {patch} px patches, which must fit: take a multiple of {patch}"
            )
        self.embedding_size = width
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(
            torch.zeros(1, 1 + (height // patch) * (side // patch), width)
        )
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        grid = self.patches(x)
        tokens = (
            torch.cat([self.class_token.expand(len(x), -1, -1), grid.flatten(2).mT], 1)
            + self.positions
        )
        maps = []
        for block in self.blocks:
            tokens = block(tokens)
            maps.append(tokens[:, 1:].mT.unflatten(2, grid.shape[2:]))
        return maps, self.norm(tokens[:, 0])


class Entry(NamedTuple):
    """An architecture by name: a line about it, the least image side in pixels, and how it is made."""

    about: str
    smallest: int
    make: Callable[[Shape, int], Network]


ZOO = {
    "alexnet": Entry("AlexNet: 5 convolutions, no normalisation", 1, alexnet),
    "vgg11": Entry("VGG-11: 8 convolutions, no normalisation", 1, vgg11),
    "vgg11-bn": Entry("VGG-11 with batch normalisation", 1, partial(vgg11, norm=nn.BatchNorm2d)),
    # Up to 16 px its last maps are 1 x 1, of which instance normalisation leaves nothing.
    "vgg11-in": Entry(
        "VGG-11 with instance normalisation: the one of the papers",
        17,
        partial(vgg11, norm=InstanceNorm),
    ),
    "resnet18-bn": Entry(
        "ResNet-18 with batch normalisation; also `resnet18`",
        1,
        partial(resnet18, norm=nn.BatchNorm2d),
    ),
    # The same up to 8 px.
    "resnet18-in": Entry(
        "ResNet-18 with instance normalisation", 9, partial(resnet18, norm=InstanceNorm)
    ),
    "lenet": Entry("LeNet-5: 2 convolutions, 3 linear layers", 16, lenet),
    "mlp": Entry("two hidden layers of 128 units", 1, mlp),
    "vit-tiny": Entry(
        "Vision Transformer: 12 blocks of width 192, an 8 x 8 grid of patches", 1, VisionTransformer
    ),
}
