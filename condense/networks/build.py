"""Build networks from their names, and give them fresh weights.

A ConvNet is called `convnet`, followed by any of these parts in any order: depth (`d3`), width
(`w128`), normalisation, activation, pooling. A part that is left out has its default: the depth
that suits the image size, and `w128-instance-relu-avg`. The other names are those of
`condense.networks.zoo`, and of networks that are not ours, `condense.networks.factories`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from condense.errors import UserError, unknown
from condense.networks import factories
from condense.networks.base import (
    LAYERS,
    NORMS,
    InstanceNorm,
    Network,
    Shape,
    Staged,
    extra_padding,
)
from condense.networks.zoo import ZOO
from condense.randomness import uniforms

__all__ = [
    "NETWORKS",
    "ConvNetSpec",
    "InstanceNorm",
    "Network",
    "build",
    "canonical",
    "fresh",
    "initialise",
]

M = TypeVar("M", bound=nn.Module)

NETWORKS: dict[str, str] = {
    "convnet": (
        "3x3 convolutions of width 128, as many as suit the image size (3 at 32 px); the default"
    ),
    "convnet-d3-w128-instance-relu-avg": (
        "the same in full; also batch, layer, group, none; sigmoid, leakyrelu; max, none"
    ),
    **{name: entry.about for name, entry in ZOO.items()},
    **factories.ABOUT,
}
_ALIASES = {"resnet18": "resnet18-bn"}

_NORMS: dict[str, Callable[[Shape], nn.Module]] = {  # of the map's shape
    "none": lambda shape: nn.Identity(),
    "batch": lambda shape: nn.BatchNorm2d(shape[0]),
    "layer": lambda shape: nn.LayerNorm(list(shape)),
    "instance": lambda shape: InstanceNorm(shape[0]),
    "group": lambda shape: nn.GroupNorm(4, shape[0]),
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": lambda: nn.ReLU(inplace=True),
    "leakyrelu": lambda: nn.LeakyReLU(0.01, inplace=True),
}
_POOLS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "max": lambda: nn.MaxPool2d(2),
    "avg": lambda: nn.AvgPool2d(2),
}
_MOST = {"depth": 100, "width": 8192}
# The field that each part of a name sets, and its value. A bare `none` means the normalisation if
# it stands before the activation, and the pooling if it stands after it.
_PARTS = {
    **{norm: ("norm", norm) for norm in _NORMS if norm != "none"},
    **{activation: ("activation", activation) for activation in _ACTIVATIONS},
    **{pool: ("pool", pool) for pool in _POOLS if pool != "none"},
    "nonorm": ("norm", "none"),
    "nopool": ("pool", "none"),
}


@dataclass(frozen=True)
class ConvNetSpec:
    """The parts of a ConvNet: blocks of 3x3 convolution, norm, activation and 2x2 pooling.

    A linear layer follows after the last block.

    >>> ConvNetSpec.parse("convnet-w64-batch", (3, 32, 32))
    ConvNetSpec(depth=3, width=64, norm='batch', activation='relu', pool='avg')
    """

    depth: int
    """The number of blocks."""
    width: int = 128
    """The channels of every convolution."""
    norm: str = "instance"
    """`none`, `batch`, `layer`, `instance` or `group` (4 groups)."""
    activation: str = "relu"
    """`sigmoid`, `relu` or `leakyrelu`."""
    pool: str = "avg"
    """`none`, `max` or `avg`."""

    @property
    def name(self) -> str:
        """The full name, with all parts in their usual order."""
        return f"convnet-d{self.depth}-w{self.width}-{self.norm}-{self.activation}-{self.pool}"

    @classmethod
    def parse(cls, name: str, shape: Shape) -> "ConvNetSpec":
        """Read a name that starts with `convnet`.

        If the name has no depth, the image `shape` determines it. Raises `UserError` for a part
        that is unknown, ambiguous or given twice.
        """
        fields: dict[str, int | str] = {}
        for part in name.split("-")[1:]:
            field, value = _part(name, part, "activation" in fields)
            if field in fields:
                raise UserError(f"network `{name}` names its {field} twice: leave one out")
            fields[field] = value
        return cls(**{"depth": _default_depth(shape), **fields})  # type: ignore[arg-type]

    def make(self, shape: Shape, num_classes: int) -> Network:
        """The network for images of `shape`. Raises `UserError` if they are too small."""
        if self.norm == "group" and self.width % 4:
            raise UserError(
                f"network `{self.name}` has 4 groups of channels: its width must be a multiple of 4"
            )
        padding = 1 + extra_padding(shape)
        channels, height, width = shape[0], shape[1] + 2 * padding - 2, shape[2] + 2 * padding - 2
        if self.pool != "none" and min(height, width) < 2**self.depth:
            least = 2**self.depth
            raise UserError(
                f"network `{self.name}` needs {least} px, images are {shape[1]} x {shape[2]}: "
                "take a lower depth or `nopool`"
            )
        stages: list[tuple[nn.Module, nn.Module]] = []
        for _ in range(self.depth):
            layers = [
                nn.Conv2d(channels, self.width, 3, padding=padding),
                _NORMS[self.norm]((self.width, height, width)),
                _ACTIVATIONS[self.activation](),
            ]
            stages.append((nn.Sequential(*layers), _POOLS[self.pool]()))
            channels, padding = self.width, 1
            if self.pool != "none":
                height, width = height // 2, width // 2
        size = self.width * height * width
        return Staged(stages, shape, num_classes, embedding_size=size)


def _part(name: str, part: str, after_activation: bool) -> tuple[str, int | str]:
    """The field that a part of a ConvNet's name sets, and the value it sets."""
    if number := re.fullmatch(r"([dw])([1-9][0-9]*)", part):
        field = {"d": "depth", "w": "width"}[number[1]]
        if len(number[2]) > 9 or int(number[2]) > _MOST[field]:
            raise UserError(
                f"network `{name}` is too large: its {field} must be at most {_MOST[field]}"
            )
        return field, int(number[2])
    if part == "none":
        if not set(name.split("-")) & _ACTIVATIONS.keys():
            raise UserError(
                f"`none` in network `{name}` could be the norm or the pooling: "
                "write `nonorm` or `nopool`"
            )
        return ("pool" if after_activation else "norm"), "none"
    if part not in _PARTS:
        raise unknown(f"part of network `{name}`:", part, ["d3", "w128", "none", *_PARTS])
    return _PARTS[part]


def _default_depth(shape: Shape) -> int:
    """The depth that leaves a last map of about 4 px.

    That is 2 for images of up to 16 px, 3 at 28 and 32 px, 4 at 64 px, and 5 at 128 px.
    """
    return max(2, round(math.log2(min(shape[1:]))) - 2)


def canonical(name: str, shape: Shape) -> str:
    """The full name of the network that `name` stands for, with images of `shape` (ch, H, W).

    Raises `UserError` for an unknown name.

    >>> canonical("convnet", (3, 32, 32))
    'convnet-d3-w128-instance-relu-avg'
    """
    if factories.is_foreign(name):
        return factories.canonical(name, shape)
    name = _ALIASES.get(name, name)
    if name.split("-")[0] == "convnet":
        return ConvNetSpec.parse(name, shape).name
    if name not in ZOO:
        raise unknown("network", name, NETWORKS)
    return name


def build(name: str, shape: Shape, num_classes: int) -> Network:
    """Build the network called `name` for images of `shape` (channels, height, width).

    It is in training mode, on the default device, with the weights of `initialise(network, 0, 0)`.
    Raises `UserError` for an unknown name and for images that are too small.

    >>> network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> network(torch.rand(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    >>> build("lenet", (1, 8, 8), num_classes=10)
    Traceback (most recent call last):
    condense.errors.UserError: network `lenet` needs images of at least 16 px, these are 8 x 8
    """
    if factories.is_foreign(name):
        from condense.networks.foreign import Foreign

        made = Foreign(factories.made(name, shape, num_classes), name, shape, num_classes)
        initialise(made, 0, 0)
        return made.to(torch.get_default_device())
    name = canonical(name, shape)

    def make() -> Network:
        if name not in ZOO:
            return ConvNetSpec.parse(name, shape).make(shape, num_classes)
        if min(shape[1:]) < ZOO[name].smallest:
            raise UserError(
                f"network `{name}` needs images of at least {ZOO[name].smallest} px, these "
                f"are {shape[1]} x {shape[2]}"
            )
        return ZOO[name].make(shape, num_classes)

    return fresh(make, 0, torch.get_default_device())


def fresh(make: Callable[[], M], seed: int, device: torch.device) -> M:
    """The network that `make` makes, on `device`, with the weights of `initialise(_, seed, 0)`.

    PyTorch draws first weights from its global generator. `make` runs on the meta device, where
    nothing is computed, so that the generator is left alone.

    >>> fresh(lambda: nn.Linear(2, 3), 0, torch.device("cpu")).weight.shape
    torch.Size([3, 2])
    """
    with torch.device("meta"):
        network = make()
    # As `to_empty` does, for which PyTorch imports sympy.
    network._apply(lambda empty: torch.empty(empty.shape, dtype=empty.dtype, device=device))
    initialise(network, seed, 0)
    return network


_COLUMNS = 1024
# Rows that are drawn together. With more, the temporary tensors of a large network leave the
# allocator's cache, which is five times slower.
_BLOCK = 1024


@torch.no_grad()
def initialise(network: nn.Module, seed: int, step: int | Tensor) -> None:
    """Give `network` fresh weights, in place, from PyTorch's default distributions.

    The weights depend only on (seed, step). Weights and biases of convolutions and linear layers
    are uniform within 1 / sqrt(fan_in). Normalisations start with weight 1 and bias 0, and their
    running statistics are reset. Class tokens and positions are normal with standard deviation
    0.02. Vectors of other layers, which only foreign networks have, start as they were made. `step`
    may be an int64 tensor on the network's device, where everything is computed. The memory layout
    of a weight makes no difference.

    >>> network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> initialise(network, seed=0, step=1)
    >>> first = network.classifier[0].weight.clone()
    >>> initialise(network, seed=0, step=2)
    >>> torch.equal(network.classifier[0].weight, first)
    False
    >>> initialise(network, seed=0, step=1)
    >>> torch.equal(network.classifier[0].weight, first)
    True
    """
    # Each parameter with the bound of its uniform distribution, or None for a normal one.
    drawn: list[tuple[nn.Parameter, float | None]] = []
    for module in network.modules():
        if isinstance(module, NORMS):
            module.reset_parameters()
            continue
        bound = module.weight[0].numel() ** -0.5 if isinstance(module, LAYERS) else None
        drawn += [
            (parameter, bound)
            for parameter in module.parameters(recurse=False)
            if bound or parameter.ndim > 1
        ]
    if isinstance(network, Network):
        network.restore()
    sizes = [parameter.numel() for parameter, _ in drawn]
    # One draw serves all parameters. Number k is in row k // 1024 and column k % 1024, so it does
    # not depend on the size of the network, and the generator only has to compute its per-row and
    # per-column parts for a thousandth of the numbers.
    rows = torch.arange(-(-sum(sizes) // _COLUMNS), device=drawn[0][0].device)
    # Multiples of 2**-24 in [0, 1) are shifted by half of that and stretched, so that they are
    # symmetric in (-1, 1).
    uniform = [
        uniforms(seed, "network", step, block, _COLUMNS).mul_(2).add_(2.0**-24 - 1)
        for block in rows.split(_BLOCK)
    ]
    numbers = torch.cat(uniform).flatten()[: sum(sizes)]
    for (parameter, bound), part in zip(drawn, numbers.split(sizes), strict=True):
        values = part * bound if bound else torch.erfinv(part) * (0.02 * 2**0.5)
        parameter.copy_(values.view_as(parameter))
