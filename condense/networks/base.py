"""The interface of a network, and the building blocks that several networks share."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""The shape of an image: (channels, height, width)."""


Norm = Callable[[int], nn.Module]
"""A normalisation layer, made from the number of channels."""
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Modules that reset their own weights."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules whose weights are drawn by their number of inputs."""


class Network(nn.Module):
    """A classifier that also gives the maps of its layers and the embedding that it classifies.

    >>> from condense.networks.build import build
    >>> network: Network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> images = torch.rand(4, 1, 8, 8)
    >>> [tuple(layer.shape) for layer in network.maps(images)]
    [(4, 8, 8, 8), (4, 8, 4, 4)]
    >>> network.embed(images).shape, network(images).shape
    (torch.Size([4, 32]), torch.Size([4, 10]))
    """

    classifier: nn.Module
    """Maps the embedding to the logits."""
    embedding_size: int
    """D, the length of the embedding."""

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps and the embedding of images [N, ch, H, W].

        The maps are each layer's activations before pooling, [N, ch_l, H_l, W_l]. The embedding is
        [N, D].
        """
        raise NotImplementedError

    def maps(self, x: Tensor) -> list[Tensor]:
        """Each layer's activations before pooling, [N, ch_l, H_l, W_l]."""
        return self.observe(x)[0]

    def embed(self, x: Tensor) -> Tensor:
        """The embedding: the last map, pooled and flattened, [N, D]."""
        return self.observe(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """The logits, [N, num_classes]."""
        return self.classifier(self.embed(x))

    def restore(self) -> None:
        """Give parameters that no rule draws their first values; a network of ours has none."""


class Staged(Network):
    """A chain of stages, followed by a classifier with `hidden` layers.

    A stage is a pair (body, pool); the output of the body is a map. `embedding_size` is found out
    if it is not given.

    >>> stages = [(conv(1, 6, 3, padding=1), halve())]
    >>> network = Staged(stages, shape=(1, 8, 8), num_classes=10, hidden=(20,))
    >>> network.embedding_size
    96
    """

    def __init__(
        self,
        stages: Sequence[tuple[nn.Module, nn.Module]],
        shape: Shape,
        num_classes: int,
        hidden: Sequence[int] = (),
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        bodies, pools = zip(*stages, strict=True)
        self.bodies, self.pools = nn.ModuleList(bodies), nn.ModuleList(pools)
        # Two blank images show the size of the embedding. Networks are built on the meta device,
        # where this computes nothing, but PyTorch imports its compiler for it, which takes seconds.
        self.embedding_size = embedding_size or self.observe(torch.zeros(2, *shape))[1].shape[1]
        widths = [self.embedding_size, *hidden, num_classes]
        layers = [
            layer
            for sizes in pairwise(widths)
            for layer in (nn.Linear(*sizes), nn.ReLU(inplace=True))
        ]
        self.classifier = nn.Sequential(*layers[:-1])

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = []
        for body, pool in zip(self.bodies, self.pools, strict=True):
            maps.append(body(x))
            x = pool(maps[-1])
        return maps, x.flatten(1)


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation: GroupNorm with one group per channel.

    Each map [H, W] of each image is standardised, then scaled and shifted. In contrast to PyTorch's
    own layer, this one accepts a single image with maps of 1 x 1; its output is then the shift.

    >>> maps = InstanceNorm(8)(torch.rand(1, 8, 4, 4))
    >>> maps.shape, maps.mean().abs().item() < 1e-5
    (torch.Size([1, 8, 4, 4]), True)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        # Uncompiled, PyTorch's kernel is fastest: forward and backward at [64, 128, 32, 32] on one
        # CPU core take 31 ms, and 145 ms by the formula. The compiler, however, can fuse the
        # formula with the surrounding operations and keep the channels-last layout.
        if torch.compiler.is_compiling():
            return self._formula(input)
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def _formula(self, x: Tensor) -> Tensor:
        # Half precision is too coarse for mean and variance.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        # The sum over a single number changes no value, but it makes the compiler for CPUs keep
        # that number. Otherwise it would compute the root and the division again for each pixel.
        scale = (torch.rsqrt(var + self.eps) * self.weight[:, None, None]).cumsum(dim=2)
        return ((wide - mean) * scale + self.bias[:, None, None]).to(x.dtype)


def extra_padding(shape: Shape) -> int:
    """Additional padding of the first convolution, which makes one-channel 28 px images 32 px.

    >>> extra_padding((1, 28, 28)), extra_padding((3, 32, 32))
    (2, 0)
    """
    return 2 if shape == (1, 28, 28) else 0


def conv(
    inputs: int, outputs: int, kernel: int, *, padding: int, norm: Norm | None = None
) -> nn.Sequential:
    """A convolution, then a normalisation if one is given, then ReLU.

    >>> conv(3, 8, 5, padding=2)(torch.rand(1, 3, 16, 16)).shape
    torch.Size([1, 8, 16, 16])
    """
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=padding),
        norm(outputs) if norm else None,
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*filter(None, layers))


def halve() -> nn.Module:
    """Max pooling by two that keeps the last row and column of an odd map.

    Images can therefore be of any size.

    >>> halve()(torch.rand(1, 8, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """
    return nn.MaxPool2d(2, ceil_mode=True)
