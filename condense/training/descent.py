"""Training steps as functions of weights and images, and the derivatives of what they lead to: for methods that learn images
by way of the training they cause.

The weights of a network are one vector [P]. No graph outlives a block of images: a batch of any size and a training of any
length need the memory of one block, plus a vector for each step.
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
    """A copy of all parameters as one vector [P], each in the order of its axes, however it lies in memory."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


class CrossEntropy:
    """The mean cross-entropy of a network over a batch, as a function of its weights, a vector [P], and of the images.

    Labels are int64 [N] or float [N, C]. Raises `UserError` for a network whose BatchNorm joins the images of a batch: its
    loss is no mean over them.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        if joins_images(network):
            raise UserError(
                f"`{name}`: BatchNorm joins the images of a batch, which this method differentiates apart: use an instance norm"
            )
        self._network = network.requires_grad_(False)
        self._shapes = {key: parameter.shape for key, parameter in network.named_parameters()}

    def fresh(self, seed: int, step: int) -> Tensor:
        """Fresh weights, a function of (seed, step): [P]."""
        initialise(self._network, seed, step)
        return weights_of(self._network)

    def layers(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector [P], by the name of the parameter and in its shape."""
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
        """The product of the gradient and `direction` [P], and its derivatives with respect to images and weights.

        The last is the Hessian times `direction`; zero unless `to_weights`.
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
    """What T steps of gradient descent lead to, and its gradients with respect to the images and to the rates [T].

        w_0 = start,   w_t+1 = w_t - rates_t * gradient of loss(w_t, batch_t(images)),   outcome(w_T)

    batch: of the number of a step and of the images: what the step learns from, images (differentiable) and labels.
    outcome: of the last weights: its value and its gradient [P].

    This is reverse accumulation written out: a step's graph is made when its turn comes and dropped again.
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
