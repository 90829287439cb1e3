"""What a user would pick instead of a trained proxy, for nothing: costs, and zero-cost scores of untrained networks.

Each score is higher for a network expected to be better, and none changes the network it is given. What is fixed:
fresh weights of `condense.networks.initialise` and one mini-batch of images.
Normalisation by batch statistics (training mode) as in the published evaluations, but for synflow, which has none.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from condense.networks.build import initialise
from nas.agreement import clean

BASELINES: dict[str, str] = {
    "parameters": "trainable numbers",
    "flops": "multiply-adds of an image",
    "synflow": "Tanaka et al., 2020: product of the weights along all paths",
    "naswot": "Mellor et al., 2021: how differently images switch the activations",
    "grad_norm": "Abdelfattah et al., 2021: gradient norm of the loss",
    "jacob_cov": "Mellor et al., 2020: how little the input gradients of images correlate",
}

_NORMALISATIONS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)


def scores(
    architecture: Any, images: Tensor, labels: Tensor, num_classes: int, *, seed: int = 0
) -> dict[str, float]:
    """Every baseline of an architecture (of a space of `nas`), by name.

    `images` is a float32 mini-batch [N, ch, H, W] on the device to work on, `labels` int64 [N]. The weights are drawn
    from (seed, the architecture's index).
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
    """Sum of |weight x gradient| over all convolutions and linear layers of the linearised network.

    Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
    flow" (NeurIPS 2020); as a score of architectures by Abdelfattah et al. (2021): no normalisation, every
    parameter replaced by its absolute value, one image of ones, the sum of the logits, float64.
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
    """Log-determinant of the kernel that counts, for each two images, the activations in the same state.

    Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training" (ICML 2021). The state is
    whether the input of the activation is positive; we take it of leaky ReLUs and sigmoids too. -inf for a singular
    kernel, as where two images have all states in common.
    """
    network = deepcopy(network).train()
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        codes = (inputs[0].flatten(1) > 0).float()
        kernel.add_(
            codes @ codes.T + (1 - codes) @ (1 - codes).T
        )  # whole numbers below 2**24: exact

    for module in network.modules():
        if isinstance(module, _ACTIVATIONS):
            module.register_forward_pre_hook(
                count
            )  # before: the activation may overwrite its input
    with torch.no_grad():
        network(images)
    sign, logarithm = torch.linalg.slogdet(kernel)
    return float(logarithm) if sign > 0 else -np.inf


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over convolutions and linear layers of the norm of the weight's gradient, of the mean cross-entropy.

    Abdelfattah, Mehrotra, Dudziak and Lane, "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021).
    """
    network = deepcopy(network).train()
    F.cross_entropy(network(images), labels).backward()
    return sum(float(weight.grad.norm()) for weight in _weights(network) if weight.grad is not None)


def jacob_cov(network: nn.Module, images: Tensor) -> float:
    """Minus the sum over eigenvalues v of log(v + k) + 1 / (v + k), k = 1e-5, of the correlations of input gradients.

    Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training" (arXiv:2006.04647v1, 2020). An
    image's gradient is that of the sum of all logits. -inf where an image's gradient is constant (no path).
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


def rank_average(*scores: ArrayLike) -> NDArray[np.float64]:
    """The mean rank [n] of several lists of scores [n], higher is better; ties share ranks, failures rank last."""
    from scipy.stats import rankdata

    return np.mean([rankdata(clean(s)[0]) for s in scores], axis=0)


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
