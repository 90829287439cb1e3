"""NATS-Bench's size space: one cell, and the channels of each of five layers, 32,768 networks.

This is the space of Dong, Liu, Musial and Gabrys, "NATS-Bench: Benchmarking NAS Algorithms for
Architecture Topology and Size" (TPAMI 2021). The layers are a cell, a reduction, a cell, a
reduction and a cell, and each has 8, 16, ..., 64 channels. An architecture is written as its
channels, such as `8:16:32:48:64`. They are numbered in lexicographic order: the first layer varies
slowest.
"""

import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from condense.errors import UserError
from condense.networks.base import Network, Shape
from condense.networks.build import fresh
from condense.training.protocol import Protocol
from nas.regime import Regime
from nas.spaces import indices, nasbench201
from nas.spaces.layers import Reduction, reduction_weights, relu_conv_bn

NAME = "natssize"
CHANNELS = (8, 16, 24, 32, 40, 48, 56, 64)
LAYERS = 5
SIZE = len(CHANNELS) ** LAYERS
REGIME = Regime(protocol=nasbench201.REGIME.protocol)
"""How networks are trained on a proxy by default: as the cells of NAS-Bench-201, for which this was
measured. For sizes it was not."""
RESOLUTION = nasbench201.RESOLUTION
REFERENCE_REGIME = Regime(
    protocol=Protocol(epochs=12, lr=0.1, augment="flip_crop", schedule="cosine", nesterov=True)
)
"""How networks are trained on real images for a reference by default."""
SAMPLE = 100
"""The number of networks that a search ranks by default."""
SCORE = nasbench201.SCORE


@dataclass(frozen=True)
class Sizes:
    """One architecture: the channels of each layer. Shapes are those of an image: (ch, H, W).

    >>> sizes = Sizes((8, 16, 24, 32, 40))
    >>> sizes.name, sizes.index, sizes.parameters()
    ('8:16:24:32:40', 668, 115490)
    """

    channels: tuple[int, ...]

    @property
    def name(self) -> str:
        """The channels as they are written in the benchmark."""
        return ":".join(map(str, self.channels))

    @property
    def index(self) -> int:
        """The number of the architecture in the benchmark, 0..32767."""
        index = 0
        for count in self.channels:
            index = len(CHANNELS) * index + CHANNELS.index(count)
        return index

    def parts(self) -> dict[str, int]:
        """What a search may change: the channels of each layer."""
        return {f"layer{number}": count for number, count in enumerate(self.channels)}

    def parameters(self, shape: Shape = (3, 32, 32), num_classes: int = 10) -> int:
        """The number of trainable parameters, in closed form."""
        weights = sum(count for count, _ in self._weights(shape))
        first, *_, last = self.channels
        norms = 2 * (first + last) + sum(
            2 * out * (5 + (before != out)) for before, out in self._cells()
        )
        norms += sum(4 * out for _, out in self._reductions())
        return weights + norms + (last + 1) * num_classes

    def flops(self, shape: Shape = (3, 32, 32), num_classes: int = 10) -> int:
        """The multiply-adds of the convolutions and the linear layer for one image.

        The bias of the linear layer counts as one. Normalisation, activation and pooling are not
        counted, as in NAS-Bench-201.
        """
        convolutions = sum(count * area for count, area in self._weights(shape))
        return convolutions + (self.channels[-1] + 1) * num_classes

    def build(self, shape: Shape = (3, 32, 32), num_classes: int = 10) -> "SizesNetwork":
        """The network, with the weights of `initialise(network, 0, 0)`, on the default device.

        Raises `UserError` for images whose height or width is not a multiple of 4.
        """
        return fresh(lambda: SizesNetwork(self, shape, num_classes), 0, torch.get_default_device())

    def _cells(self) -> list[tuple[int, int]]:
        """The channels that go into each cell and come out of it."""
        return [(self.channels[max(0, layer - 1)], self.channels[layer]) for layer in (0, 2, 4)]

    def _reductions(self) -> list[tuple[int, int]]:
        return [*pairwise(self.channels)][::2]

    def _weights(self, shape: Shape) -> list[tuple[int, int]]:
        """For each layer the weights of its convolutions, and the pixels that each is used for."""
        pixels = shape[1] * shape[2]
        stem = [(9 * shape[0] * self.channels[0], pixels)]
        cells = [
            (18 * before * out + 27 * out**2 + (before * out if before != out else 0), area)
            for (before, out), area in zip(
                self._cells(), (pixels, pixels // 4, pixels // 16), strict=True
            )
        ]
        reductions = [
            (reduction_weights(before, out), area)
            for (before, out), area in zip(
                self._reductions(), (pixels // 4, pixels // 16), strict=True
            )
        ]
        return stem + cells + reductions


def architecture(key: int | str) -> Sizes:
    """The architecture with this index (0..32767, also as text), or written like this.

    Raises `UserError` for any other key.

    >>> architecture(1).name
    '8:8:8:8:16'
    >>> architecture("8:8:8:8:9")
    Traceback (most recent call last):
    condense.errors.UserError: unknown sizes `8:8:8:8:9`: give five of 8, 16, 24, 32, ...
    """
    if isinstance(key, str) and not re.fullmatch(r"[0-9]{1,9}", key):
        known = {str(count): count for count in CHANNELS}
        channels = tuple(known.get(text, 0) for text in key.split(":"))
        if len(channels) != LAYERS or 0 in channels:
            counts = ", ".join(known)
            raise UserError(f"unknown sizes `{key}`: give five of {counts}, such as 8:16:32:48:64")
        return Sizes(channels)
    index = indices.checked(key, NAME, SIZE)
    places = [index // len(CHANNELS) ** layer % len(CHANNELS) for layer in range(LAYERS)]
    return Sizes(tuple(CHANNELS[place] for place in reversed(places)))


def sample(count: int | None = None, seed: int = 0) -> list[int]:
    """The indices of `count` different architectures in ascending order; all of them for None.

    They are drawn at random by `seed`. Raises `UserError` for a number that is not in 1..32768.

    >>> len(sample(100, seed=0))
    100
    """
    return indices.first(count, partial(indices.shuffled, SIZE, seed), NAME, SIZE)


def neighbours(index: int) -> list[int]:
    """The architectures with other channels in one layer, for a search that evolves.

    >>> len(neighbours(0))
    35
    """
    channels = architecture(index).channels
    return [
        Sizes((*channels[:layer], other, *channels[layer + 1 :])).index
        for layer, own in enumerate(channels)
        for other in CHANNELS
        if other != own
    ]


class SizesNetwork(Network):
    """The network of an architecture: a stem, cells and reductions in turn, a linear classifier.

    Raises `UserError` if the height or the width of the images is not a multiple of 4.

    >>> network = SizesNetwork(architecture("8:8:16:16:24"), (3, 8, 8), num_classes=10)
    >>> network(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, sizes: Sizes, shape: Shape, num_classes: int):
        super().__init__()
        if shape[1] % 4 or shape[2] % 4:
            raise UserError(
                "NATS-Bench networks halve images twice: "
                f"height and width must be multiples of 4, got {shape}"
            )
        first, *_, last = sizes.channels
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        )
        cells = [_Cell(before, out) for before, out in sizes._cells()]
        reductions = [Reduction(before, out) for before, out in sizes._reductions()]
        self.stages = nn.ModuleList(
            nn.Sequential(*before, cell)
            for before, cell in zip(([], *([one] for one in reductions)), cells, strict=True)
        )
        self.embedding_size = last
        self.last = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU())
        self.classifier = nn.Linear(last, num_classes)

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps and the embedding of images [N, ch, H, W].

        The maps are the outputs of the cells; the last one is normalised and goes through a ReLU.
        The embedding is [N, channels of the last layer].
        """
        maps = []
        features = self.stem(x)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        maps[-1] = self.last(maps[-1])
        return maps, maps[-1].mean((2, 3))


class _Cell(nn.Module):
    """The cell of all architectures.

    In NAS-Bench-201 it is `|c~0|+|c~0|c~1|+|skip_connect~0|c~1|c~2|`, where c is `nor_conv_3x3`.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        inputs = (channels, channels, out, out, out)
        self.edges = nn.ModuleList(relu_conv_bn(each, out, 3) for each in inputs)
        self.skip: nn.Module = nn.Identity()
        if channels != out:
            convolution = nn.Conv2d(channels, out, 1, bias=False)
            self.skip = nn.Sequential(convolution, nn.BatchNorm2d(out))

    def forward(self, features: Tensor) -> Tensor:
        first = self.edges[0](features)
        second = self.edges[1](features) + self.edges[2](first)
        return self.skip(features) + self.edges[3](first) + self.edges[4](second)
