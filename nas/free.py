"""Baselines that need no training: costs of networks, and zero-cost scores of untrained networks.

A user could rank by these for nothing, so a trained proxy has to beat them. Each score is higher
for a network that is expected to be better. No function changes the network that it is given. The
networks have the fresh weights of `condense.networks.build.initialise`, and see one mini-batch.

As in the published evaluations, networks normalise by batch statistics (training mode). The
exception is synflow, which removes the normalisation.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.networks.build import initialise

BASELINES: dict[str, str] = {
    "parameters": "trainable numbers",
    "flops": "multiply-adds of an image",
    "synflow": "Tanaka et al., 2020: product of the weights along all paths",
    "naswot": "Mellor et al., 2021: how differently images switch the activations",
    "grad_norm": "Abdelfattah et al., 2021: gradient norm of the loss",
    "jacob_cov": "Mellor et al., 2020: how little the input gradients of images correlate",
}
"""The baselines by name, and what each of them measures."""

_NORMALISATIONS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)


def scores(
    architecture: Any, images: Tensor, labels: Tensor, num_classes: int, *, seed: int = 0
) -> dict[str, float]:
    """Every baseline of an architecture of one of the `nas.spaces`, by name.

    `images` is a float32 mini-batch [N, ch, H, W] on the device to work on, `labels` is int64 [N].
    The weights are drawn from the seed and the index of the architecture.

    >>> from nas.spaces import space
    >>> convnet = space("convnet720").architecture("convnet-d1-w32-instance-relu-avg")
    >>> images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    >>> values = scores(convnet, images, labels, num_classes=10)
    >>> values.keys() == BASELINES.keys(), values["parameters"]
    (True, 5514)
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    network = architecture.build(shape, num_classes).to(images.device)
    initialise(network, seed, architecture.index)
    return {
        "parameters": architecture.parameters(shape, num_classes),
        "flops": architecture.flops(shape, num_classes),
        "synflow": synflow(network, shape),
        "naswot": naswot(network, images),
        "grad_norm": grad_norm(network, images, labels),
        "jacob_cov": jacob_cov(network, images),
    }


def synflow(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """The sum of |weight x gradient| over all convolutions and linear layers of the network.

    Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively
    conserving synaptic flow" (NeurIPS 2020); used as a score of architectures by Abdelfattah et al.
    (2021). The network is made linear first: its normalisation is removed, and each parameter is
    replaced by its absolute value. The gradient is that of the sum of the logits for one image of
    ones, with the given `shape` (ch, H, W). All is computed in float64.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.constant_(layer.weight, -3)
    >>> synflow(nn.Sequential(nn.Flatten(), layer), shape=(1, 1, 2))
    6.0
    """
    network = _without_normalisation(deepcopy(network)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    device = next(network.parameters()).device
    network(torch.ones(1, *shape, dtype=torch.float64, device=device)).sum().backward()
    return sum(
        float((weight.detach() * weight.grad).abs().sum())
        for weight in _weights(network)
        if weight.grad is not None
    )


def naswot(network: nn.Module, images: Tensor) -> float:
    """How differently the images [N, ch, H, W] switch the activations of the network.

    Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training" (ICML 2021).
    This is the log-determinant of an N x N kernel. For each pair of images, the kernel counts the
    activations that are in the same state: whether their input is positive. We count leaky ReLUs
    and sigmoids too. The result is -inf for a singular kernel, for example if two images have all
    states in common.

    >>> images = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).reshape(2, 1, 1, 2)
    >>> round(naswot(nn.ReLU(), images), 4)  # log(2 * 2 - 1 * 1)
    1.0986
    """
    network = deepcopy(network).train()
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        codes = (inputs[0].flatten(1) > 0).float()
        # Exact in float32: the sums are whole numbers below 2**24.
        kernel.add_(codes @ codes.T + (1 - codes) @ (1 - codes).T)

    for module in network.modules():
        if isinstance(module, _ACTIVATIONS):
            # The hook runs before the activation, which may overwrite its input.
            module.register_forward_pre_hook(count)
    with torch.no_grad():
        network(images)
    sign, logarithm = torch.linalg.slogdet(kernel)
    return float(logarithm) if sign > 0 else -np.inf


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The sum of the norms of the weights' gradients, over all convolutions and linear layers.

    Abdelfattah, Mehrotra, Dudziak and Lane, "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021).
    The gradients are those of the mean cross-entropy of a mini-batch: images [N, ch, H, W], labels
    int64 [N].

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> grad_norm(network, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]))
    0.0
    """
    network = deepcopy(network).train()
    F.cross_entropy(network(images), labels).backward()
    return sum(float(weight.grad.norm()) for weight in _weights(network) if weight.grad is not None)


def jacob_cov(network: nn.Module, images: Tensor) -> float:
    """How little the input gradients of the images [N, ch, H, W] correlate.

    Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training"
    (arXiv:2006.04647v1, 2020). The gradient of an image is that of the sum of all logits. With the
    eigenvalues v of the N x N correlation matrix of the gradients, the score is minus the sum of
    log(v + k) + 1 / (v + k), where k = 1e-5. It is -inf if the gradient of an image is constant, as
    in a network without a path from the input to the logits.

    >>> jacob_cov(nn.AvgPool2d(2), torch.rand(3, 1, 2, 2))
    -inf
    """
    network = deepcopy(network).train()
    images = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).sum(), images, materialize_grads=True)
    rows = gradient.flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not (norms > 0).all():
        return -np.inf
    values = torch.linalg.eigvalsh((rows / norms) @ (rows / norms).T) + 1e-5
    return -float((values.log() + 1 / values).sum())


def _weights(network: nn.Module) -> list[Tensor]:
    """The weights of the convolutions and linear layers."""
    return [
        module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]


def _without_normalisation(network: nn.Module) -> nn.Module:
    """The network with every normalisation replaced by the identity, in place."""
    for name, child in network.named_children():
        if isinstance(child, _NORMALISATIONS):
            setattr(network, name, nn.Identity())
        else:
            _without_normalisation(child)
    return network
