"""NAS-Bench-201: 15,625 cells, their official order, isomorphism classes, costs and networks.

This is the space of Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural
Architecture Search" (ICLR 2020). A cell has four nodes. Node 0 is the input, and node 3 the output.
Node j is the sum over all i < j of an operation applied to node i. A cell is written
`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: one group for each of the nodes 1, 2 and 3, in which `op~i`
is the operation on the edge from node i.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial, reduce
from itertools import product
from random import Random

import torch
from torch import Tensor, nn

from condense.errors import UserError
from condense.networks.base import Network, Shape
from condense.networks.build import fresh
from condense.training.protocol import Protocol
from nas.regime import Regime
from nas.spaces import indices
from nas.spaces.layers import Reduction, reduction_weights, relu_conv_bn

NAME = "nasbench201"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""The edges (from, to), in the order in which a cell is written."""
SIZE = len(OPERATIONS) ** len(EDGES)

CELLS, WIDTH = 5, 16
"""Cells in each of the three stages, and channels of the first stage, as in the benchmark."""
REGIME = Regime(
    protocol=Protocol(
        epochs=20, batch=25, lr=0.05, augment="none", schedule="cosine", nesterov=True
    ),
    sizes={"cells": 1, "width": 8},
)
"""How cells are trained on a proxy by default; `docs/nas.md` says what this rests on."""
RESOLUTION = 16
"""The side of the images that this was measured on, in pixels: the command shrinks larger ones."""
REFERENCE_REGIME = Regime(
    protocol=Protocol(epochs=12, lr=0.1, augment="flip_crop", schedule="cosine", nesterov=True),
    sizes={"cells": CELLS, "width": WIDTH},
)
"""How cells are trained on real images for a reference by default."""
SAMPLE = 100
"""The number of cells that a search ranks by default."""
SCORE = "summed_loss + free"
"""The score that a search ranks by, by default: the result of the same studies."""
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


@dataclass(frozen=True)
class Cell:
    """One architecture: the operation on each of `EDGES`.

    Shapes are those of an image: (channels, height, width).

    >>> cell = Cell(("nor_conv_3x3", "none", "skip_connect", "none", "none", "skip_connect"))
    >>> cell.name
    '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|'
    >>> cell.index, cell.isomorph, cell.parameters()
    (431, 431, 316346)
    """

    operations: tuple[str, ...]

    @property
    def name(self) -> str:
        """The cell as it is written in the benchmark."""
        groups = [
            [f"{op}~{i}" for (i, j), op in zip(EDGES, self.operations, strict=True) if j == node]
            for node in (1, 2, 3)
        ]
        return "+".join(f"|{'|'.join(group)}|" for group in groups)

    @property
    def index(self) -> int:
        """The number of the cell in the official order, 0..15624."""
        return _official_order()[1][self]

    @property
    def isomorph(self) -> int:
        """The smallest index of a cell that computes the same function: it identifies the class."""
        return _first_of_class()[self.canonical()]

    def parts(self) -> dict[str, str]:
        """What a search may change: the operation on each edge."""
        names = (f"{i}-{j}" for i, j in EDGES)
        return dict(zip(names, self.operations, strict=True))

    def facts(self) -> dict[str, int]:
        """Facts about the cell beside its name and its costs."""
        return {"isomorph": self.isomorph}

    def canonical(self) -> str:
        """The function of the input that the cell computes, as a text.

        There is one text for each of the 6,466 classes of isomorphic cells. The input is `0`, and
        `#` stands for zero. An edge with the operation `none`, or from a node that is `#`,
        contributes `#`. A `skip_connect` contributes its source unchanged. The terms of a sum are
        sorted. As in the code of the benchmark's authors, terms `#` stay in the sum, and a sum of
        such terms is not itself `#`.

        >>> parse("|skip_connect~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|").canonical()
        '#+#+(0)@nor_conv_1x1'
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
        """The number of trainable parameters, in closed form."""
        c = width
        stem = 9 * shape[0] * c + 2 * c
        stages = sum(cells * self._edge_parameters(channels) for channels in (c, 2 * c, 4 * c))
        reductions = sum(
            reduction_weights(channels, 2 * channels) + 2 * 2 * 2 * channels
            for channels in (c, 2 * c)
        )
        return stem + stages + reductions + 2 * 4 * c + (4 * c + 1) * num_classes

    def flops(
        self,
        shape: Shape = (3, 32, 32),
        num_classes: int = 10,
        cells: int = CELLS,
        width: int = WIDTH,
    ) -> int:
        """The multiply-adds of the convolutions and the linear layer for one image.

        The bias of the linear layer counts as one. Normalisation, activation and pooling are not
        counted. This is the convention of the benchmark.
        """
        c, pixels = width, shape[1] * shape[2]
        stem = 9 * shape[0] * c * pixels
        areas = {c: pixels, 2 * c: pixels // 4, 4 * c: pixels // 16}
        stages = sum(
            cells * self._edge_weights(channels) * area for channels, area in areas.items()
        )
        reductions = sum(
            reduction_weights(channels, 2 * channels) * areas[2 * channels]
            for channels in (c, 2 * c)
        )
        return stem + stages + reductions + (4 * c + 1) * num_classes

    def build(
        self,
        shape: Shape = (3, 32, 32),
        num_classes: int = 10,
        cells: int = CELLS,
        width: int = WIDTH,
    ) -> "CellNetwork":
        """The network with `cells` cells in each stage, on the default device.

        Its weights are those of `initialise(network, 0, 0)`. Raises `UserError` for images whose
        height or width is not a multiple of 4.
        """
        return fresh(
            lambda: CellNetwork(self, shape, num_classes, cells, width),
            0,
            torch.get_default_device(),
        )

    def _edge_weights(self, channels: int) -> int:
        return sum(_KERNELS.get(op, 0) ** 2 for op in self.operations) * channels**2

    def _edge_parameters(self, channels: int) -> int:
        return (
            self._edge_weights(channels)
            + sum(op in _KERNELS for op in self.operations) * 2 * channels
        )


def _term(source: str, operation: str) -> str:
    """What an edge contributes to the canonical text of its target node."""
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"


@cache
def _official_order() -> tuple[tuple[Cell, ...], dict[Cell, int]]:
    """All cells in the official order, and the index of each.

    The authors of the benchmark shuffled the lexicographic list with the seed 88.
    """
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
    """The cell that is written as `text`.

    Raises a `UserError` that names the nearest valid cell if there is no such cell.

    >>> parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|").operations[3]
    'skip_connect'
    >>> parse("|none~0|+|none~0|none~1|+|skip~0|none~1|none~2|")
    Traceback (most recent call last):
    condense.errors.UserError: unknown NAS-Bench-201 cell ... `...|skip_connect~0|...`
    """
    edges = [edge.rpartition("~")[::2] for edge in re.split(r"[|+]+", text.strip().strip("|"))]
    operations = tuple(op for op, _ in edges)
    known = len(edges) == len(EDGES) and set(operations) <= set(OPERATIONS)
    if known and Cell(operations).name == text.strip():
        return Cell(operations)
    # Typical mistakes are misspelt operations and missing edges, so each edge is guessed by itself.
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
    """The cell with this official index (0..15624, also as text), or written like this.

    Raises `UserError` for any other key.

    >>> architecture(6111).operations[0]
    'nor_conv_3x3'
    """
    if isinstance(key, str) and not re.fullmatch(r"[0-9]{1,9}", key):
        return parse(key)
    return _official_order()[0][indices.checked(key, NAME, SIZE)]


def sample(count: int | None = None, seed: int = 0) -> list[int]:
    """The indices of `count` different cells in ascending order; by default those of all cells.

    The cells are drawn at random by `seed`. Raises `UserError` for a number that is not in
    1..15625.

    >>> len(sample(100, seed=0))
    100
    """
    return indices.first(count, partial(indices.shuffled, SIZE, seed), NAME, SIZE)


def neighbours(index: int) -> list[int]:
    """The cells that differ from one in the operation on one edge, for a search that evolves.

    >>> len(neighbours(6111))
    24
    """
    operations = architecture(index).operations
    return [
        Cell((*operations[:edge], other, *operations[edge + 1 :])).index
        for edge, own in enumerate(operations)
        for other in OPERATIONS
        if other != own
    ]


class CellNetwork(Network):
    """The network of a cell: a stem, three stages of `cells` cells each, and a linear classifier.

    The stages have 1, 2 and 4 times `width` channels, and there is a reduction block between two
    stages. Raises `UserError` if the height or the width of the images is not a multiple of 4.

    >>> network = CellNetwork(architecture(6111), (3, 8, 8), num_classes=10, cells=1, width=8)
    >>> network(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, cell: Cell, shape: Shape, num_classes: int, cells: int = CELLS, width: int = WIDTH
    ):
        super().__init__()
        if shape[1] % 4 or shape[2] % 4:
            raise UserError(
                "NAS-Bench-201 networks halve images twice: "
                f"height and width must be multiples of 4, got {shape}"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        stages = [[_CellBlock(cell, width << stage) for _ in range(cells)] for stage in range(3)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *([Reduction(width << (stage - 1), width << stage)] if stage else []), *blocks
            )
            for stage, blocks in enumerate(stages)
        )
        self.embedding_size = 4 * width
        self.last = nn.Sequential(nn.BatchNorm2d(4 * width), nn.ReLU())
        self.classifier = nn.Linear(4 * width, num_classes)

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps and the embedding of images [N, ch, H, W].

        The maps are the outputs of the stages; the last one is normalised and goes through a ReLU.
        The embedding is [N, 4 * width].
        """
        maps = []
        features = self.stem(x)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        maps[-1] = self.last(maps[-1])
        return maps, maps[-1].mean((2, 3))


class _CellBlock(nn.Module):
    """The layers of a cell, for a given number of channels."""

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
        return relu_conv_bn(channels, channels, _KERNELS[name])
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity()
