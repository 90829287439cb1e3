"""The 720 ConvNets of the condensation papers: depth, width, activation, normalisation, pooling.

This is the space of Zhao, Mopuri and Bilen ("Dataset Condensation with Gradient Matching", ICLR
2021, appendix), which DataDAM and others use. Architectures are numbered 0..719 in the order of
`GRID`: the depth varies slowest, the pooling fastest. They have the names that
`condense.networks.build.build` takes, such as `convnet-d3-w128-instance-relu-avg`.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import product
from math import prod
from typing import Any

import torch

from condense.errors import UserError, unknown
from condense.networks.base import Network, Shape, extra_padding
from condense.networks.build import ConvNetSpec, build
from condense.randomness import generator
from condense.training.protocol import Protocol
from nas.regime import Regime
from nas.spaces import indices

NAME = "convnet720"
GRID: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 64, 128, 256),
    "activation": ("sigmoid", "relu", "leakyrelu"),
    "norm": ("none", "batch", "layer", "instance", "group"),
    "pool": ("none", "max", "avg"),
}
"""The values of each factor."""
SIZE = prod(map(len, GRID.values()))
REGIME = Regime(protocol=Protocol(epochs=200))
"""How ConvNets are trained on a proxy by default: the protocol of the papers."""
REFERENCE_REGIME = Regime(protocol=Protocol(epochs=20))
"""How ConvNets are trained on real images for a reference by default."""
SAMPLE = 144
"""The number of ConvNets that a search ranks by default: a fifth of all."""
SCORE = "accuracy"
"""The score that a search ranks by, by default: the choice of the papers."""


class ConvNet(ConvNetSpec):
    """One architecture of the grid.

    Shapes are those of an image: (channels, height, width). Methods that take a shape raise
    `UserError` if the images are too small to be pooled after each block.

    >>> convnet = architecture("convnet-d3-w128-instance-relu-avg")
    >>> convnet.index, convnet.parameters((3, 32, 32), num_classes=10)
    (476, 320010)
    """

    @property
    def index(self) -> int:
        """The number of the architecture, 0..719."""
        index = 0
        for factor, values in GRID.items():
            index = index * len(values) + values.index(getattr(self, factor))
        return index

    def parts(self) -> dict[str, Any]:
        """What a search may change: its factors."""
        return {factor: getattr(self, factor) for factor in GRID}

    def parameters(self, shape: Shape, num_classes: int) -> int:
        """The number of trainable parameters, in closed form."""
        total = 0
        for channels, height, width in self._blocks(shape):
            affine = {"none": 0, "layer": height * width}.get(self.norm, 1) * self.width
            total += self.width * (9 * channels + 1) + 2 * affine
        return total + (self._features(shape) + 1) * num_classes

    def flops(self, shape: Shape, num_classes: int) -> int:
        """The multiply-adds of the convolutions and the linear layer for one image.

        Each bias counts as one. Normalisation, activation and pooling are not counted, as in the
        table of NAS-Bench-201.
        """
        convolutions = sum(
            self.width * (9 * channels + 1) * height * width
            for channels, height, width in self._blocks(shape)
        )
        return convolutions + (self._features(shape) + 1) * num_classes

    def build(self, shape: Shape, num_classes: int) -> Network:
        """The network, made by `condense.networks.build.build`."""
        return build(self.name, shape, num_classes)

    def _blocks(self, shape: Shape) -> Iterator[Shape]:
        """For each block, its input channels, and the height and width after its convolution."""
        padding = 2 * extra_padding(shape)
        channels, height, width = shape[0], shape[1] + padding, shape[2] + padding
        if self.pool != "none" and min(height, width) < 2**self.depth:
            raise UserError(
                f"`{self.name}` needs images of at least {2**self.depth} px, "
                f"these are {shape[1]} x {shape[2]}"
            )
        for _ in range(self.depth):
            yield channels, height, width
            channels, height, width = self.width, self._pooled(height), self._pooled(width)

    def _pooled(self, size: int) -> int:
        return size if self.pool == "none" else size // 2

    def _features(self, shape: Shape) -> int:
        """The number of inputs of the linear layer."""
        *_, (_, height, width) = self._blocks(shape)
        return self.width * self._pooled(height) * self._pooled(width)


_ALL = tuple(ConvNet(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values()))
_BY_NAME = {convnet.name: convnet for convnet in _ALL}


def architecture(key: int | str) -> ConvNet:
    """The architecture with this index (0..719, also as text) or this name.

    Raises `UserError` for any other key.

    >>> architecture(0).name
    'convnet-d1-w32-none-sigmoid-none'
    >>> architecture(720)
    Traceback (most recent call last):
    condense.errors.UserError: no architecture 720 in convnet720: indices are 0 to 719
    """
    if isinstance(key, str) and not re.fullmatch(r"[0-9]{1,9}", key):
        if key not in _BY_NAME:
            near = unknown("ConvNet", key, _BY_NAME).args[0].split(" known: ")[0]
            raise UserError(f"{near} {SIZE} are known, named like `{_ALL[400].name}`")
        return _BY_NAME[key]
    return _ALL[indices.checked(key, NAME, SIZE)]


def sample(count: int | None = None, seed: int = 0, *, stratified: bool = True) -> list[int]:
    """The indices of `count` different architectures, in ascending order; by default all of them.

    If `stratified`, all values of a factor occur equally often, to within one. Otherwise the
    architectures are drawn at random. Both depend on `seed`. Raises `UserError` for a number that
    is not in 1..720.

    >>> indices = sample(8, seed=0)
    >>> sorted(architecture(index).depth for index in indices)
    [1, 1, 2, 2, 3, 3, 4, 4]
    """
    order = _balanced if stratified else partial(indices.shuffled, SIZE)
    return indices.first(count, partial(order, seed), NAME, SIZE)


def neighbours(index: int) -> list[int]:
    """The ConvNets that differ from one in one factor, for a search that evolves.

    >>> len(neighbours(0))
    14
    """
    own = architecture(index).parts()
    return [
        ConvNet(**{**own, factor: value}).index
        for factor, values in GRID.items()
        for value in values
        if value != own[factor]
    ]


def _balanced(seed: int) -> list[int]:
    """All indices in an order in which each factor is balanced from the start.

    The seed shuffles the values of each factor. At position i, a factor with n values has the value
    number (i mod n). Two factors of equal size would then always change together, so the second one
    is shifted by one after every n positions. In this way, i mod 16 determines depth and width, i
    mod 9 activation and pooling, and i mod 5 the normalisation. As 16, 9 and 5 are coprime, each of
    the 720 architectures occurs once.
    """
    draws = generator(seed, "nas/stratified")
    values = {
        factor: [choices[i] for i in torch.randperm(len(choices), generator=draws)]
        for factor, choices in GRID.items()
    }

    def at(i: int) -> ConvNet:
        turn = {"depth": i, "width": i + i // 4, "activation": i, "norm": i, "pool": i + i // 3}
        return ConvNet(
            **{factor: choices[turn[factor] % len(choices)] for factor, choices in values.items()}
        )

    return [at(i).index for i in range(SIZE)]
