"""NAS-Bench-201: 15,625 cells, their official order, isomorphism classes, costs and networks.

The space of Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search" (ICLR
2020). A cell has four nodes; node j is the sum over i < j of an operation applied to node i; node 3 is the output.
Written `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: one group for each of nodes 1, 2 and 3, `op~i` the edge from node i.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, reduce
from itertools import product
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.errors import UserError
from condense.networks.base import Network, Shape
from condense.networks.build import initialise
from condense.randomness import generator
from condense.training.train import Protocol
from nas.regime import Regime

NAME = "nasbench201"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from, to), in the order of the string
SIZE = len(OPERATIONS) ** len(EDGES)

CELLS, WIDTH = 5, 16
"""Cells in each of the three stages, and channels of the first one: the benchmark's."""
REGIME = Regime(
    protocol=Protocol(
        epochs=20, batch=25, lr=0.05, augment="none", schedule="cosine", nesterov=True
    ),
    sizes={"cells": CELLS, "width": WIDTH},
)
"""How cells are trained on a proxy, unless told otherwise; `docs/nas.md` has the study behind it."""
REFERENCE_REGIME = Regime(
    protocol=Protocol(epochs=12, lr=0.1, augment="flip_crop", schedule="cosine", nesterov=True),
    sizes={"cells": CELLS, "width": WIDTH},
)
"""How they are trained on real images for a reference."""
SAMPLE = 100
"""Cells that a search ranks, unless told otherwise."""
SCORE = "summed_loss"
"""What ranks, unless told otherwise: the study's choice."""
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


@dataclass(frozen=True)
class Cell:
    """One architecture: the operation on each of `EDGES`. Shapes are (channels, height, width) of an image."""

    operations: tuple[str, ...]

    @property
    def name(self) -> str:
        """The architecture string."""
        groups = [
            [f"{op}~{i}" for (i, j), op in zip(EDGES, self.operations, strict=True) if j == node]
            for node in (1, 2, 3)
        ]
        return "+".join(f"|{'|'.join(group)}|" for group in groups)

    @property
    def index(self) -> int:
        """Its number in the official order, 0..15624."""
        return _official_order()[1][self]

    @property
    def isomorph(self) -> int:
        """The smallest index of a cell that computes the same function; equal for the cells of a class."""
        return _first_of_class()[self.canonical()]

    def facts(self) -> dict[str, int]:
        """What there is to say of a cell beside its name and its costs."""
        return {"isomorph": self.isomorph}

    def canonical(self) -> str:
        """The function of the input that the cell computes, one text for each of the 6,466 classes.

        An edge `none`, or one out of a node that is itself `#`, contributes `#`; `skip_connect` contributes its
        source unchanged; a sum is written with its terms sorted (the de-duplication of the benchmark's authors: terms
        `#` stay in the sum, and a sum of them is not `#` again).
        """
        nodes = ["0"]
        for node in (1, 2, 3):
            terms = [
                _term(nodes[i], op)
                for (i, j), op in zip(EDGES, self.operations, strict=True)
                if j == node
            ]
            nodes.append("+".join(sorted(terms)))
        return nodes[3]

    def parameters(
        self,
        shape: Shape = (3, 32, 32),
        num_classes: int = 10,
        cells: int = CELLS,
        width: int = WIDTH,
    ) -> int:
        """Trainable numbers, in closed form."""
        c = width
        stem = 9 * shape[0] * c + 2 * c
        stages = sum(cells * self._edge_parameters(channels) for channels in (c, 2 * c, 4 * c))
        reductions = sum(
            _reduction_weights(channels) + 2 * 2 * 2 * channels for channels in (c, 2 * c)
        )
        return stem + stages + reductions + 2 * 4 * c + (4 * c + 1) * num_classes

    def flops(
        self,
        shape: Shape = (3, 32, 32),
        num_classes: int = 10,
        cells: int = CELLS,
        width: int = WIDTH,
    ) -> int:
        """Multiply-adds of the convolutions and the linear layer for one image, the linear bias counted as one.

        Normalisation, activation and pooling are not counted: the benchmark's own convention.
        """
        c, pixels = width, shape[1] * shape[2]
        stem = 9 * shape[0] * c * pixels
        areas = {c: pixels, 2 * c: pixels // 4, 4 * c: pixels // 16}
        stages = sum(
            cells * self._edge_weights(channels) * area for channels, area in areas.items()
        )
        reductions = sum(
            _reduction_weights(channels) * areas[2 * channels] for channels in (c, 2 * c)
        )
        return stem + stages + reductions + (4 * c + 1) * num_classes

    def build(
        self,
        shape: Shape = (3, 32, 32),
        num_classes: int = 10,
        cells: int = CELLS,
        width: int = WIDTH,
    ) -> "CellNetwork":
        """The network with `cells` cells a stage, on the default device, with the weights of `initialise(network, 0, 0)`."""
        device = torch.get_default_device()
        with torch.device("meta"):  # where no random numbers are drawn
            network = CellNetwork(self, shape, num_classes, cells, width)
        network.to_empty(device=device)
        initialise(network, 0, 0)
        return network

    def _edge_weights(self, channels: int) -> int:
        return sum(_KERNELS.get(op, 0) ** 2 for op in self.operations) * channels**2

    def _edge_parameters(self, channels: int) -> int:
        return (
            self._edge_weights(channels)
            + sum(op in _KERNELS for op in self.operations) * 2 * channels
        )


def _term(source: str, operation: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"


def _reduction_weights(channels: int) -> int:
    """Weights of the reduction block that doubles `channels`: two 3x3 convolutions and the 1x1 of the shortcut."""
    return 9 * channels * 2 * channels + 9 * (2 * channels) ** 2 + channels * 2 * channels


@cache
def _official_order() -> tuple[tuple[Cell, ...], dict[Cell, int]]:
    """Every cell by index, and the indices: the benchmark's authors shuffled the lexicographic list with seed 88."""
    cells = [Cell(operations) for operations in product(OPERATIONS, repeat=len(EDGES))]
    Random(88).shuffle(cells)
    return tuple(cells), {cell: index for index, cell in enumerate(cells)}


@cache
def _first_of_class() -> dict[str, int]:
    """The smallest index of each isomorphism class, by canonical text."""
    first: dict[str, int] = {}
    for index, cell in enumerate(_official_order()[0]):
        first.setdefault(cell.canonical(), index)
    return first


def parse(text: str) -> Cell:
    """The cell an architecture string describes; a `UserError` names the nearest valid string otherwise."""
    edges = [edge.rpartition("~")[::2] for edge in re.split(r"[|+]+", text.strip().strip("|"))]
    operations = tuple(op for op, _ in edges)
    known = len(edges) == len(EDGES) and set(operations) <= set(OPERATIONS)
    if known and Cell(operations).name == text.strip():
        return Cell(operations)
    # Edge by edge, as misspelt operations and lost edges are what happens.
    guesses = [
        get_close_matches(op, OPERATIONS, n=1, cutoff=0.3) for op in operations[: len(EDGES)]
    ]
    nearest = [guess[0] if guess else "none" for guess in guesses] + ["none"] * (
        len(EDGES) - len(guesses)
    )
    raise UserError(
        f"unknown NAS-Bench-201 cell `{text}`: the nearest valid is `{Cell(tuple(nearest)).name}`"
    )


def architecture(key: int | str) -> Cell:
    """The cell with this official index (0..15624, also as text) or architecture string; else a `UserError`."""
    if isinstance(key, str) and not key.isdecimal():
        return parse(key)
    if not 0 <= int(key) < SIZE:
        raise UserError(f"no architecture {key} in {NAME}: indices are 0 to {SIZE - 1}")
    return _official_order()[0][int(key)]


def sample(count: int | None = None, seed: int = 0) -> list[int]:
    """Official indices of `count` different random cells, ascending; all of them without a `count`."""
    if count is None:
        return list(range(SIZE))
    if not 1 <= count <= SIZE:
        raise UserError(f"cannot sample {count} architectures from {NAME}: ask for 1 to {SIZE}")
    return sorted(torch.randperm(SIZE, generator=generator(seed, "nas/sample")).tolist()[:count])


class CellNetwork(Network):
    """Stem, three stages of `cells` cells at 1, 2 and 4 times `width` channels, a reduction block between stages.

    Images [N, ch, H, W] with H and W multiples of 4 go to logits [N, num_classes].
    """

    def __init__(
        self, cell: Cell, shape: Shape, num_classes: int, cells: int = CELLS, width: int = WIDTH
    ):
        super().__init__()
        if shape[1] % 4 or shape[2] % 4:
            raise UserError(
                f"NAS-Bench-201 networks halve images twice: height and width must be multiples of 4, got {shape}"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        stages = [[_CellBlock(cell, width << stage) for _ in range(cells)] for stage in range(3)]
        self.stages = nn.ModuleList(
            nn.Sequential(*([_Reduction(width << (stage - 1))] if stage else []), *blocks)
            for stage, blocks in enumerate(stages)
        )
        self.embedding_size = 4 * width
        self.last = nn.Sequential(nn.BatchNorm2d(4 * width), nn.ReLU())
        self.classifier = nn.Linear(4 * width, num_classes)

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The output of each stage, the last after its normalisation and ReLU, and the embedding [N, 4 * width]."""
        maps = []
        features = self.stem(x)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        maps[-1] = self.last(maps[-1])
        return maps, maps[-1].mean((2, 3))


class _CellBlock(nn.Module):
    """A cell at a fixed number of channels."""

    def __init__(self, cell: Cell, channels: int):
        super().__init__()
        self.edges = nn.ModuleList(_operation(op, channels) for op in cell.operations)
        self.connected = [op != "none" for op in cell.operations]

    def forward(self, features: Tensor) -> Tensor:
        nodes = [features]
        for node in (1, 2, 3):
            incoming = [e for e, (_, j) in enumerate(EDGES) if j == node and self.connected[e]]
            terms = [self.edges[e](nodes[EDGES[e][0]]) for e in incoming]
            nodes.append(reduce(torch.add, terms) if terms else torch.zeros_like(features))
        return nodes[3]


def _operation(name: str, channels: int) -> nn.Module:
    if name in _KERNELS:
        return _relu_conv_bn(channels, channels, _KERNELS[name])
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity()


def _relu_conv_bn(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(out))


class _Reduction(nn.Module):
    """The residual block between two stages: half the resolution, twice the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.path = nn.Sequential(
            _relu_conv_bn(channels, 2 * channels, 3, stride=2),
            _relu_conv_bn(2 * channels, 2 * channels, 3),
        )
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.path(features) + self.shortcut(F.avg_pool2d(features, 2))
