"""What every network is, and the parts that several of them are made of."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]


Norm = Callable[[int], nn.Module]


class Network(nn.Module):
    """A classifier that shows its inside: every layer's map, and the embedding its `classifier` reads."""

    classifier: nn.Module
    embedding_size: int
    """D, the length of the embedding."""

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Of images [N, ch, H, W]: each layer's activations before pooling, [N, ch_l, H_l, W_l], and the embedding [N, D]."""
        raise NotImplementedError

    def maps(self, x: Tensor) -> list[Tensor]:
        """Each layer's activations before pooling, [N, ch_l, H_l, W_l]."""
        return self.observe(x)[0]

    def embed(self, x: Tensor) -> Tensor:
        """The last map after its pooling, flattened: [N, D]."""
        return self.observe(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """The logits, [N, num_classes]."""
        return self.classifier(self.embed(x))


class Staged(Network):
    """A chain of stages, each a (body, pool): the body's output is a map. Then a classifier with `hidden` layers."""

    def __init__(
        self,
        stages: Sequence[tuple[nn.Module, nn.Module]],
        shape: Shape,
        num_classes: int,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        bodies, pools = zip(*stages, strict=True)
        self.bodies, self.pools = nn.ModuleList(bodies), nn.ModuleList(pools)
        # Two blank images tell the size. Networks are built on the meta device, where this computes nothing.
        self.embedding_size = self.observe(torch.zeros(2, *shape))[1].shape[1]
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
    """GroupNorm with one group a channel: each map [H, W] of each image standardised, then scaled and shifted.

    Unlike PyTorch's own it takes a single image with maps of 1 x 1, whose output is the shift.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        # Eager, PyTorch's kernel is fastest: forward and backward at [64, 128, 32, 32] on one CPU core take 31 ms, 145 ms
        # by the formula. The compiler fuses the formula with what is around it, and keeps channels-last.
        if torch.compiler.is_compiling():
            return self._formula(input)
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def _formula(self, x: Tensor) -> Tensor:
        wide = x.to(
            torch.promote_types(x.dtype, torch.float32)
        )  # half precision is too coarse for the moments
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        # The sum over one number changes nothing but makes the compiler for CPUs keep what it sums: it would compute the root
        # and the division anew for each pixel.
        scale = (torch.rsqrt(var + self.eps) * self.weight[:, None, None]).cumsum(dim=2)
        return ((wide - mean) * scale + self.bias[:, None, None]).to(x.dtype)


def extra_padding(shape: Shape) -> int:
    """What the first convolution pads beside its usual padding, to make one-channel 28 px images 32 px."""
    return 2 if shape == (1, 28, 28) else 0


def conv(
    inputs: int, outputs: int, kernel: int, *, padding: int, norm: Norm | None = None
) -> nn.Sequential:
    """Convolution, normalisation and ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=padding),
        norm(outputs) if norm else None,
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*filter(None, layers))


def halve() -> nn.Module:
    """Max pooling that keeps the last row and column of an odd map, so that no image is too small."""
    return nn.MaxPool2d(2, ceil_mode=True)
