"""What the naive networks of the tests have in common: layers as functions, weights in order."""

import torch
from torch import nn
from torch.nn import functional as F


class Weights:
    """The weights of a network in the order in which they stand, each taken once."""

    def __init__(self, network: nn.Module) -> None:
        self._left = iter(network.state_dict().items())

    def take(self, suffix: str) -> torch.Tensor:
        name, value = next(self._left)
        assert name.endswith(suffix), name
        return value

    def bn(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift, mean, var, _ = map(self.take, ("weight", "bias", "mean", "var", "tracked"))
        return F.batch_norm(x, mean, var, scale, shift)

    def relu_conv_bn(self, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.take("weight")
        convolved = F.conv2d(F.relu(x), weight, stride=stride, padding=weight.shape[2] // 2)
        return self.bn(convolved)

    def reduction(self, x: torch.Tensor) -> torch.Tensor:
        path = self.relu_conv_bn(self.relu_conv_bn(x, stride=2))
        return path + F.conv2d(F.avg_pool2d(x, 2), self.take("weight"))
