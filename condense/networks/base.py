"""The interface of a network, and the building blocks that several networks share."""

from collections.abc import Callable, Sequence
from itertools import pairwise, starmap
from typing import Any

import torch
from torch import Tensor, nn

from condense.errors import UserError

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

    def attend(
        self, x: Tensor, power: float, layers: Sequence[int] | None
    ) -> tuple[list[Tensor], Tensor]:
        """The spatial attention of `layers`, and the embedding.

        The attention of a layer is the sum over channels of |map| ** power, [N, H_l, W_l], at least
        float32. `layers` is as in `chosen`.
        """
        maps, embedding = self.observe(x)
        powers = (widen(maps[layer]).abs().pow(power) for layer in chosen(layers, len(maps)))
        return [each.sum(dim=1) for each in powers], embedding

    def forward(self, x: Tensor) -> Tensor:
        """The logits, [N, num_classes]."""
        return self.classifier(self.embed(x))

    def restore(self) -> None:
        """Give parameters that no rule draws their first values; a network of ours has none."""


def widen(values: Tensor) -> Tensor:
    """Convert `values` to float32 if their type is narrower.

    Half precision is too coarse for sums over channels and means over images.

    >>> widen(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def chosen(layers: Sequence[int] | None, count: int) -> Sequence[int]:
    """The layers to match, of a network with `count` layers; None means all but the last.

    Raises `UserError` for a layer that the network does not have.

    >>> list(chosen(None, 3)), list(chosen((0, 2), 3))
    ([0, 1], [0, 2])
    """
    if layers is None:
        return range(count - 1)
    if not all(0 <= layer < count for layer in layers):
        raise UserError(f"`layers` is {layers}: this network has layers 0 to {count - 1}")
    return layers


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
        self._fused = all(starmap(_is_fused, stages))

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = []
        for body, pool in zip(self.bodies, self.pools, strict=True):
            maps.append(body(x))
            x = pool(maps[-1])
        return maps, x.flatten(1)

    def attend(
        self, x: Tensor, power: float, layers: Sequence[int] | None
    ) -> tuple[list[Tensor], Tensor]:
        if not (self._fused and _takes_kernels(x)):
            return super().attend(x, power, layers)
        from condense.networks.fused import norm_relu_pool  # needs Triton

        layers, attention = chosen(layers, len(self.bodies)), []
        body: Any
        for layer, body in enumerate(self.bodies):
            convolution, norm, _ = body
            # The norm takes away any constant, and so the convolution's bias, which would cost a
            # pass over the map. In training the bias still gets its gradient, which is 0.
            bias = norm.bias
            if convolution.bias.requires_grad:
                bias = bias + 0 * convolution.bias
            x = convolution._conv_forward(x, convolution.weight, None)
            of_layer = power if layer in layers else 0.0
            x, summed = norm_relu_pool(x, norm.weight, bias, eps=norm.eps, power=of_layer)
            attention.append(summed)
        return [attention[layer] for layer in layers], x.flatten(1)

    def embed(self, x: Tensor) -> Tensor:
        return self.attend(x, power=1.0, layers=())[1]


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


def _takes_kernels(x: Tensor) -> bool:
    """Whether `x` is on a GPU, in compiled code.

    Such code is for first derivatives. The kernels have no second ones, which some methods need.
    """
    return x.is_cuda and torch.compiler.is_compiling()


def _is_fused(body: nn.Module, pool: nn.Module) -> bool:
    """Whether `condense.networks.fused` computes what follows the convolution of this stage."""
    layers = [type(layer) for layer in body.children()]
    return (
        layers == [nn.Conv2d, InstanceNorm, nn.ReLU]
        and isinstance(pool, nn.AvgPool2d)
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (2, 2, 0, False)
    )


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
