"""The 720 ConvNets of the condensation papers: depth x width x activation x normalisation x pooling.

The space of Zhao, Mopuri and Bilen ("Dataset Condensation with Gradient Matching", ICLR 2021, appendix), which
DataDAM and others use. Architectures are numbered 0..719 in the order of `GRID`: the depth varies slowest, the
pooling fastest. Their names are those that `condense.networks.build` takes, `convnet-d3-w128-instance-relu-avg`.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import torch

from condense.errors import UserError, unknown
from condense.networks.base import Network, Shape, extra_padding
from condense.networks.build import ConvNetSpec, build
from condense.randomness import generator
from condense.training.train import Protocol
from nas.regime import Regime

NAME = "convnet720"
GRID: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 64, 128, 256),
    "activation": ("sigmoid", "relu", "leakyrelu"),
    "norm": ("none", "batch", "layer", "instance", "group"),
    "pool": ("none", "max", "avg"),
}
SIZE = prod(map(len, GRID.values()))
REGIME = Regime(protocol=Protocol(epochs=200))
"""How ConvNets are trained on a proxy, unless told otherwise: the papers' protocol."""
REFERENCE_REGIME = Regime(protocol=Protocol(epochs=20))
"""How they are trained on real images for a reference."""
SAMPLE = 144
"""ConvNets that a search ranks, unless told otherwise: a fifth."""
SCORE = "accuracy"
"""What ranks, unless told otherwise: the papers' choice."""


class ConvNet(ConvNetSpec):
    """One architecture of the grid. Shapes are (channels, height, width) of an image."""

    @property
    def index(self) -> int:
        """Its number in 0..719."""
        index = 0
        for factor, values in GRID.items():
            index = index * len(values) + values.index(getattr(self, factor))
        return index

    def parameters(self, shape: Shape, num_classes: int) -> int:
        """Trainable numbers, in closed form."""
        total = 0
        for channels, height, width in self._blocks(shape):
            affine = {"none": 0, "layer": height * width}.get(self.norm, 1) * self.width
            total += self.width * (9 * channels + 1) + 2 * affine
        return total + (self._features(shape) + 1) * num_classes

    def flops(self, shape: Shape, num_classes: int) -> int:
        """Multiply-adds of the convolutions and the linear layer for one image, each bias counted as one.

        Normalisation, activation and pooling are not counted, as in NAS-Bench-201's table.
        """
        convolutions = sum(
            self.width * (9 * channels + 1) * height * width
            for channels, height, width in self._blocks(shape)
        )
        return convolutions + (self._features(shape) + 1) * num_classes

    def build(self, shape: Shape, num_classes: int) -> Network:
        """The network itself (`condense.networks.build`)."""
        return build(self.name, shape, num_classes)

    def facts(self) -> dict[str, int]:
        """What there is to say of a ConvNet beside its name and its costs: nothing."""
        return {}

    def _blocks(self, shape: Shape) -> Iterator[Shape]:
        """For each block: its input channels, and the height and width of its convolution's output."""
        channels, height, width = (
            shape[0],
            shape[1] + 2 * extra_padding(shape),
            shape[2] + 2 * extra_padding(shape),
        )
        if self.pool != "none" and min(height, width) < 2**self.depth:
            raise UserError(
                f"`{self.name}` needs images of at least {2**self.depth} px, these are {shape[1]} x {shape[2]}"
            )
        for _ in range(self.depth):
            yield channels, height, width
            channels, height, width = self.width, self._pooled(height), self._pooled(width)

    def _pooled(self, size: int) -> int:
        return size if self.pool == "none" else size // 2

    def _features(self, shape: Shape) -> int:
        """Inputs of the linear layer."""
        *_, (_, height, width) = self._blocks(shape)
        return self.width * self._pooled(height) * self._pooled(width)


_ALL = tuple(ConvNet(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values()))
_BY_NAME = {convnet.name: convnet for convnet in _ALL}


def architecture(key: int | str) -> ConvNet:
    """The architecture with this index (0..719, also as text) or name; anything else is a `UserError`."""
    if isinstance(key, str) and not key.isdecimal():
        if key not in _BY_NAME:
            near = unknown("ConvNet", key, _BY_NAME).args[0].split(" known: ")[0]
            raise UserError(f"{near} {SIZE} are known, named like `{_ALL[400].name}`")
        return _BY_NAME[key]
    if not 0 <= int(key) < SIZE:
        raise UserError(f"no architecture {key} in {NAME}: indices are 0 to {SIZE - 1}")
    return _ALL[int(key)]


def sample(count: int | None = None, seed: int = 0, *, stratified: bool = True) -> list[int]:
    """Indices of `count` different architectures, ascending; all of them without a `count`.

    `stratified`: every value of a factor occurs as often as its others, to within one; or at random.
    """
    if count is None:
        return list(range(SIZE))
    if not 1 <= count <= SIZE:
        raise UserError(f"cannot sample {count} architectures from {NAME}: ask for 1 to {SIZE}")
    if stratified:
        return sorted(_balanced(seed)[:count])
    return sorted(torch.randperm(SIZE, generator=generator(seed, "nas/sample")).tolist()[:count])


def _balanced(seed: int) -> list[int]:
    """All indices in an order whose every prefix is balanced, the values of each factor shuffled by the seed.

    Position i gives a factor of n values its value (i mod n). Two factors of equal size would then move together, so
    the second is shifted by one after every n positions: i mod 16 fixes depth and width, i mod 9 activation and
    pooling, i mod 5 the normalisation; 16, 9 and 5 are coprime, so that each of the 720 occurs once.
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
