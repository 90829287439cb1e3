"""The layers that NAS-Bench-201's cells and NATS-Bench's sizes have in common."""

from torch import Tensor, nn
from torch.nn import functional as F


def relu_conv_bn(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A ReLU, a convolution that keeps the size but for its stride, and a batch norm.

    >>> [type(layer).__name__ for layer in relu_conv_bn(8, 16, kernel=3)]
    ['ReLU', 'Conv2d', 'BatchNorm2d']
    """
    convolution = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(out))


class Reduction(nn.Module):
    """The residual block between two stages: it halves the resolution and has `out` channels.

    >>> sum(parameter.numel() for parameter in Reduction(8, 16).parameters())
    3648
    >>> reduction_weights(8, 16) + 4 * 16
    3648
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.path = nn.Sequential(
            relu_conv_bn(channels, out, 3, stride=2), relu_conv_bn(out, out, 3)
        )
        self.shortcut = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """The maps [N, out, H / 2, W / 2] of maps [N, channels, H, W]."""
        return self.path(features) + self.shortcut(F.avg_pool2d(features, 2))


def reduction_weights(channels: int, out: int) -> int:
    """The number of weights of the convolutions of a `Reduction`.

    It has two 3x3 convolutions, and a 1x1 convolution in the shortcut.

    >>> reduction_weights(8, 16)
    3584
    """
    return 9 * channels * out + 9 * out**2 + channels * out
