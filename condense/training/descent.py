"""Differentiate through training steps, for methods that learn images by the training they cause.

The weights of a network are one vector [P]. A graph never outlives a block of images. A batch of
any size and a training of any length therefore need the memory of one block, plus one vector for
each step.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from condense.errors import UserError
from condense.networks.accelerate import block_size, joins_images
from condense.networks.build import initialise


def weights_of(network: nn.Module) -> Tensor:
    """A copy of all parameters as one vector [P].

    Each parameter is in the order of its axes, whatever its memory layout is.

    >>> weights_of(nn.Linear(3, 2)).shape
    torch.Size([8])
    """
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


class CrossEntropy:
    """The mean cross-entropy of a network over a batch, as a function of weights and images.

    The weights are a vector [P]. Labels are int64 [N] or float [N, C]. `name` is the name of the
    network for error messages. Raises `UserError` for a network with BatchNorm: it joins the images
    of a batch, so that the loss is not a mean over them.

    >>> from condense.networks.build import build
    >>> loss = CrossEntropy(build("convnet-d2-w8", (1, 8, 8), num_classes=3), "convnet-d2-w8")
    >>> weights = loss.fresh(seed=0, step=0)
    >>> value, gradient = loss.gradient(weights, torch.rand(5, 1, 8, 8), torch.arange(5) % 3)
    >>> gradient.shape == weights.shape
    True
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        if joins_images(network):
            raise UserError(
                f"`{name}`: BatchNorm joins the images of a batch, which this method "
                "differentiates apart: use an instance norm"
            )
        self._network = network.requires_grad_(False)
        self._shapes = {key: parameter.shape for key, parameter in network.named_parameters()}

    def fresh(self, seed: int, step: int) -> Tensor:
        """Fresh weights [P] that depend only on (seed, step)."""
        initialise(self._network, seed, step)
        return weights_of(self._network)

    def layers(self, vector: Tensor) -> dict[str, Tensor]:
        """Split a vector [P] into parts with the names and shapes of the parameters."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        return {
            key: part.view(shape)
            for (key, shape), part in zip(self._shapes.items(), vector.split(sizes), strict=True)
        }

    def gradient(self, weights: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to the weights, [P]."""
        weights = weights.detach().requires_grad_()
        total, gradient = weights.new_zeros(()), torch.zeros_like(weights)
        for x, y in self._blocks(images.detach(), labels):
            loss = self._loss(weights, x, y) / len(images)
            total += loss.detach()
            gradient += torch.autograd.grad(loss, weights)[0]
        return total, gradient

    def pull_back(
        self,
        weights: Tensor,
        images: Tensor,
        labels: Tensor,
        direction: Tensor,
        *,
        to_weights: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The product of the gradient and `direction` [P], and the derivatives of this product.

        The first derivative is with respect to the images. The second is with respect to the
        weights, which is the Hessian times `direction`; it is zero unless `to_weights`.
        """
        weights, images = weights.detach().requires_grad_(), images.detach()
        total, of_weights, of_images = weights.new_zeros(()), torch.zeros_like(weights), []
        for x, y in self._blocks(images, labels):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(
                self._loss(weights, x, y) / len(images), weights, create_graph=True
            )
            product = gradient @ direction
            total += product.detach()
            if to_weights:
                of_x, hessian = torch.autograd.grad(product, (x, weights))
                of_weights += hessian
            else:
                (of_x,) = torch.autograd.grad(product, x)
            of_images.append(of_x)
        return total, torch.cat(of_images), of_weights

    def _blocks(self, images: Tensor, labels: Tensor) -> zip:
        size = block_size(images, images.device)
        return zip(images.split(size), labels.split(size), strict=True)

    def _loss(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            functional_call(self._network, self.layers(weights), images), labels, reduction="sum"
        )


def through_descent(
    loss: CrossEntropy,
    start: Tensor,
    images: Tensor,
    rates: Tensor,
    batch: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    outcome: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """The outcome of T steps of gradient descent, with its gradients.

        w_0   = start
        w_t+1 = w_t - rates_t * gradient of loss(w_t, batch_t(images))
        value = outcome(w_T)

    Parameters
    ----------
    loss: the loss that each step descends.
    start: w_0, [P].
    images: [N, ch, H, W].
    rates: the learning rate of each step, [T].
    batch: maps the number of a step and the images to what the step learns from: images, which
        must be differentiable, and labels.
    outcome: maps the last weights to a value and its gradient [P].

    Returns the value and its gradients with respect to the images and to the rates. This is reverse
    accumulation, written out so that the graph of a step exists only while that step is processed.

    >>> from condense.networks.build import build
    >>> loss = CrossEntropy(build("convnet-d2-w8", (1, 8, 8), num_classes=2), "convnet-d2-w8")
    >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    >>> value, of_images, of_rates = through_descent(
    ...     loss,
    ...     loss.fresh(seed=0, step=0),
    ...     images,
    ...     torch.full((3,), 0.1),
    ...     batch=lambda step, images: (images, labels),
    ...     outcome=lambda weights: loss.gradient(weights, images, labels),
    ... )
    >>> of_images.shape, of_rates.shape
    (torch.Size([2, 1, 8, 8]), torch.Size([3]))
    """
    path = [start]
    for number, rate in enumerate(rates):
        path.append(path[-1] - rate * loss.gradient(path[-1], *batch(number, images))[1])
    value, adjoint = outcome(path.pop())
    of_images, of_rates = torch.zeros_like(images), torch.zeros_like(rates)
    for number in reversed(range(len(rates))):
        leaf = images.detach().requires_grad_()
        drawn, labels = batch(number, leaf)
        product, of_drawn, hessian = loss.pull_back(path.pop(), drawn, labels, adjoint)
        of_rates[number] = -product
        of_images -= rates[number] * torch.autograd.grad(drawn, leaf, of_drawn)[0]
        adjoint = adjoint - rates[number] * hessian
    return value, of_images, of_rates
