"""Baselines that need no training: costs of networks, and zero-cost scores of untrained networks.

A user could rank by these for nothing, so a trained proxy has to beat them. Each score is higher
for a network that is expected to be better. No function changes the network that it is given. The
networks have the fresh weights of `condense.networks.build.initialise`, and see one mini-batch.

As in the published evaluations, networks normalise by batch statistics (training mode). The
exception is synflow, which removes the normalisation.
"""

from copy import deepcopy
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.randomness import generator
from nas.spaces import fresh

BASELINES: dict[str, str] = {
    "parameters": "trainable numbers",
    "flops": "multiply-adds of an image",
    "synflow": "Tanaka et al., 2020: product of the weights along all paths",
    "naswot": "Mellor et al., 2021: how differently images switch the activations",
    "grad_norm": "Abdelfattah et al., 2021: gradient norm of the loss",
    "jacob_cov": "Mellor et al., 2020: how little input gradients correlate; `jacov` in NASLib",
    "snip": "Lee et al., 2019: how much the loss depends on each weight",
    "grasp": "Wang et al., 2020: how little the gradient shrinks without the weights",
    "fisher": "Turner et al., 2020: how much the loss depends on each channel",
    "zen": "Lin et al., 2021: how far a small change of the images moves the last map",
}
"""The baselines by name, and what each of them measures."""

_ZEN_IMAGES = 16
"""Random images of the Zen score."""
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
    network = fresh(architecture, shape, num_classes, seed, images.device)
    return {
        "parameters": architecture.parameters(shape, num_classes),
        "flops": architecture.flops(shape, num_classes),
        "synflow": synflow(network, shape),
        "naswot": naswot(network, images),
        "grad_norm": grad_norm(network, images, labels),
        "jacob_cov": jacob_cov(network, images),
        "snip": snip(network, images, labels),
        "grasp": grasp(network, images, labels),
        "fisher": fisher(network, images, labels),
        "zen": zen(network, shape, seed=seed),
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


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The sum of |weight x gradient| over all convolutions and linear layers.

    Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity"
    (ICLR 2019), without its normalisation, as Abdelfattah et al. (2021) use it. The gradient is
    that of the mean cross-entropy of images [N, ch, H, W] with labels int64 [N].

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> snip(nn.Sequential(nn.Flatten(), layer), torch.ones(1, 1, 1, 1), torch.tensor([0]))
    0.0
    """
    network = deepcopy(network).train()
    F.cross_entropy(network(images), labels).backward()
    return sum(
        float((weight.detach() * weight.grad).abs().sum())
        for weight in _weights(network)
        if weight.grad is not None
    )


def grasp(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus the sum of weight x (H g) over all convolutions and linear layers.

    Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow"
    (ICLR 2020), as Abdelfattah et al. (2021) use it. g is the gradient of the mean cross-entropy of
    images [N, ch, H, W] with labels int64 [N] by these weights, and H its Hessian. The result is
    NaN where PyTorch has no second derivative of a layer, such as a hard sigmoid.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> grasp(nn.Sequential(nn.Flatten(), layer), torch.ones(1, 1, 1, 1), torch.tensor([0]))
    -0.0
    """
    network = deepcopy(network).train()
    weights = _weights(network)
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    product = sum(((g.detach() * g).sum() for g in gradients), start=loss.new_zeros(()))
    if not product.requires_grad:  # no weight reaches the logits
        return 0.0
    try:
        bent = torch.autograd.grad(product, weights, materialize_grads=True)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        return np.nan
    return -sum(float((w.detach() * b).sum()) for w, b in zip(weights, bent, strict=True))


def fisher(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The sum over the channels of half the mean square of activation x gradient.

    Turner, Crowley, O'Boyle, Storkey and Gray, "BlockSwap: Fisher-guided Block Substitution for
    Network Compression on a Budget" (ICLR 2020), as Abdelfattah et al. (2021) use it. The
    activations are the outputs of the convolutions and linear layers. Their products with the
    gradients of the mean cross-entropy are summed over the places of a map, squared, and averaged
    over the images [N, ch, H, W] with labels int64 [N].

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> fisher(network, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1])) > 0
    True
    """
    network, outputs = deepcopy(network).train(), list[Tensor]()

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # what comes next may overwrite it

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(keep)
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, outputs, materialize_grads=True)
    total = 0.0
    for output, gradient in zip(outputs, gradients, strict=True):
        products = output.detach() * gradient
        if output.dim() == 4:
            products = products.sum(dim=(2, 3))
        elif output.dim() > 2:  # a linear layer at each of several places
            products = products.flatten(1, -2).sum(dim=1)
        total += float(products.square().mean(dim=0).sum() / 2)
    return total


def zen(network: nn.Module, shape: tuple[int, int, int], *, seed: int = 0) -> float:
    """How far a small change of random images [ch, H, W] moves the last map of the network.

    Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition" (ICCV 2021). The
    weights, the images and their change are normal, drawn from `seed`; see `moved`.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> zen(network, (1, 8, 8)) == zen(network, (1, 8, 8))
    True
    """
    network, draws = deepcopy(network).train(), generator(seed, "nas/zen")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(torch.randn(module.weight.shape, generator=draws))
                if module.bias is not None:
                    module.bias.zero_()
    device = next(network.parameters()).device
    images, change = torch.randn(2, _ZEN_IMAGES, *shape, generator=draws).to(device)
    return moved(network, images, 0.01 * change)


@torch.no_grad()
def moved(network: nn.Module, images: Tensor, change: Tensor) -> float:
    """The logarithm of the distance between the last maps of `images` and of `images + change`.

    The distance is the sum of the absolute differences, averaged over the images [N, ch, H, W], as
    in the code of Lin et al. To it are added the logarithms of what each batch normalisation
    divides by: the root of the mean variance of its channels. Without them, a normalisation would
    hide what the layers before it do. A normalisation that sees no variance divides nothing. The
    result is -inf if nothing moves, and for a network without maps.

    >>> images = torch.zeros(2, 1, 2, 2)
    >>> round(moved(nn.ReLU(), images, torch.ones(2, 1, 2, 2)), 4)  # log(4)
    1.3863
    """
    maps, scales = list[Tensor](), list[float]()

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, nn.BatchNorm2d):
            scales.append(float(inputs[0].var(dim=(0, 2, 3), unbiased=False).mean()))
        pools = isinstance(module, nn.AdaptiveAvgPool2d)
        if isinstance(output, Tensor) and output.dim() == 4 and not pools:
            maps.append(output.clone())

    hooks = [m.register_forward_hook(look) for m in network.modules() if not [*m.children()]]
    try:
        network(images)
        if not maps:
            return -np.inf
        before, divided = maps[-1], sum(log(scale) / 2 for scale in scales if scale > 0)
        network(images + change)
    finally:
        for hook in hooks:
            hook.remove()
    distance = float((maps[-1] - before).abs().sum(dim=(1, 2, 3)).mean())
    return log(distance) + divided if distance > 0 else -np.inf


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
