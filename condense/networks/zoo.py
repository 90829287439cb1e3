"""Published architectures other than the ConvNet, in their versions for small images.

A shape is (channels, height, width). The first convolution pads one-channel 28 px images to 32 px.
`condense.networks.build` builds these networks by name.
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
    """AlexNet (Krizhevsky et al., 2012) for 32 px: five convolutions, one linear layer.

    >>> alexnet((3, 32, 32), 10).embedding_size
    3072
    """
    stages = [
        (conv(shape[0], 128, 5, padding=2 + extra_padding(shape)), halve()),
        (conv(128, 192, 5, padding=2), halve()),
        (conv(192, 256, 3, padding=1), nn.Identity()),
        (conv(256, 192, 3, padding=1), nn.Identity()),
        (conv(192, 192, 3, padding=1), halve()),
    ]
    return Staged(stages, shape, num_classes)


def vgg11(shape: Shape, num_classes: int, norm: Norm | None = None) -> Network:
    """VGG-11 (Simonyan and Zisserman, 2015) for 32 px: eight convolutions, one linear layer.

    >>> vgg11((3, 32, 32), 10, norm=InstanceNorm).embedding_size
    512
    """
    widths = [shape[0], 64, 128, 256, 256, 512, 512, 512, 512]
    pooled = [True, True, False, True, False, True, False, True]
    paddings = [1 + extra_padding(shape), *[1] * 7]
    stages = [
        (conv(inputs, outputs, 3, padding=padding, norm=norm), halve() if pool else nn.Identity())
        for (inputs, outputs), padding, pool in zip(pairwise(widths), paddings, pooled, strict=True)
    ]
    return Staged(stages, shape, num_classes)


def lenet(shape: Shape, num_classes: int) -> Network:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling.

    >>> lenet((1, 28, 28), 10).embedding_size
    400
    """
    stages = [
        (conv(shape[0], 6, 5, padding=extra_padding(shape)), nn.MaxPool2d(2)),
        (conv(6, 16, 5, padding=0), nn.MaxPool2d(2)),
    ]
    return Staged(stages, shape, num_classes, hidden=(120, 84))


def mlp(shape: Shape, num_classes: int) -> Network:
    """A multilayer perceptron with two hidden layers of 128 units; their maps are [N, 128, 1, 1].

    >>> mlp((1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    sizes = [(shape[0] * shape[1] * shape[2], 128), (128, 128)]
    layers = [
        nn.Sequential(
            nn.Flatten(), nn.Linear(*size), nn.ReLU(inplace=True), nn.Unflatten(1, (-1, 1, 1))
        )
        for size in sizes
    ]
    stages = [(layer, nn.Identity()) for layer in layers]
    return Staged(stages, shape, num_classes, embedding_size=128)


class Residual(nn.Module):
    """The basic block of ResNet: two 3x3 convolutions and a shortcut around them.

    >>> Residual(8, 16, stride=2, norm=InstanceNorm)(torch.rand(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

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
    """ResNet-18 (He et al., 2016) for 32 px.

    It starts with a 3x3 convolution without pooling and ends with global average pooling. Each of
    its four stages, of two blocks, has one map.

    >>> resnet18((3, 32, 32), 10, norm=InstanceNorm).embedding_size
    512
    """
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
    """A Transformer encoder block on tokens [N, T, width], with normalisation before each part.

    >>> EncoderBlock(width=12, heads=3)(torch.rand(2, 5, 12)).shape
    torch.Size([2, 5, 12])
    """

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
        # q, k and v are [N, heads, T, width / heads].
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out, because fused attention lacks the second derivative that gradient matching
        # needs.
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class VisionTransformer(Network):
    """ViT (Dosovitskiy et al., 2021).

    The map of a block is the grid of its patch tokens. The embedding is the final class token.
    Raises `UserError` if the patches do not fit into the image.

    >>> network = VisionTransformer((1, 8, 8), 10, width=12, depth=2, heads=3)
    >>> [tuple(grid.shape) for grid in network.maps(torch.rand(4, 1, 8, 8))]
    [(4, 12, 8, 8), (4, 12, 8, 8)]
    """

    def __init__(
        self, shape: Shape, num_classes: int, *, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        channels, height, side = shape
        patch = max(1, round(min(height, side) / 8))
        if height % patch or side % patch:
            raise UserError(
                f"`vit-tiny` cuts {height} x {side} px images into {patch} px patches, which must "
                f"fit: take a multiple of {patch}"
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
    """An architecture in the `ZOO`.

    >>> ZOO["lenet"].about, ZOO["lenet"].smallest
    ('LeNet-5: 2 convolutions, 3 linear layers', 16)
    """

    about: str
    """A line that describes it."""
    smallest: int
    """The smallest side of an image, in pixels."""
    make: Callable[[Shape, int], Network]
    """Makes the network from the image shape and the number of classes."""


ZOO = {
    "alexnet": Entry("AlexNet: 5 convolutions, no normalisation", 1, alexnet),
    "vgg11": Entry("VGG-11: 8 convolutions, no normalisation", 1, vgg11),
    "vgg11-bn": Entry("VGG-11 with batch normalisation", 1, partial(vgg11, norm=nn.BatchNorm2d)),
    # Up to 16 px its last maps are 1 x 1, and instance normalisation leaves nothing of those.
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
    # The same happens here up to 8 px.
    "resnet18-in": Entry(
        "ResNet-18 with instance normalisation", 9, partial(resnet18, norm=InstanceNorm)
    ),
    "lenet": Entry("LeNet-5: 2 convolutions, 3 linear layers", 16, lenet),
    "mlp": Entry("two hidden layers of 128 units", 1, mlp),
    "vit-tiny": Entry(
        "Vision Transformer: 12 blocks of width 192, an 8 x 8 grid of patches", 1, VisionTransformer
    ),
}
"""The architectures by name."""
