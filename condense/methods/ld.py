"""LD: keep real images as they are, and learn soft labels for them.

Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", 2020:
the second-order algorithm. With base images x and labels y, a network theta, a real batch (x_t,
y_t) and the cross-entropy L:

    theta' = theta - inner_lr * grad_theta L(f_theta(x), y)     a step on the base images
    y      = Adam step along grad_y L(f_theta'(x_t), y_t)       then each label is clipped to [0, 1]
                                                                and divided by its sum
    theta  = Adam step along grad_theta L(f_theta(x), y)        the network learns as well

When the moving average of the error after the inner step has not fallen for `patience` steps, a
fresh network replaces the present one. Labels start uniform. They are probabilities, and networks
are trained on them with the cross-entropy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from condense.methods.adam import adam, forget, state_of
from condense.methods.base import Learner, Loop, Looping, Problem
from condense.methods.shares import share
from condense.networks import build as networks
from condense.networks.accelerate import block_size, joins_images
from condense.randomness import generator
from condense.settings import above, at_least

_SMALLEST = 1e-8
"""The smallest entry of a label; it is above 0, so that the sum of a label is never 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LD(Looping):
    """The algorithm of the paper.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam for the labels.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=LD(), network="convnet-d2-w8", real_batch=8, steps=1)
    >>> condensed = condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True)
    >>> condensed.labels.shape
    torch.Size([10, 10])
    """

    name: ClassVar[str] = "ld"

    inner_lr: float = 0.01
    """The learning rate of the inner step, by which the labels are judged."""
    inner_batch: int | None = 50
    """Base images in the inner step, drawn again each time. None means all."""
    network_lr: float = 1e-3
    """The learning rate of Adam for the network."""
    patience: int = 50
    """Steps that the moving average covers, and steps that it may go without a new minimum."""

    def __post_init__(self) -> None:
        above(0, self, "inner_lr", "network_lr")
        at_least(1, self, "inner_batch", "patience")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """1,024 real images per step, 400 epochs of 45,000 images, no augmentation."""
        return {
            "steps": 17_600,
            "real_batch": share(1024, dataset_name),
            "lr": 1e-3,
            "momentum": 0.9,
            "augment": "none",
        }

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


class _Learner(Loop):
    method: LD
    labels: Tensor

    def __init__(self, method: LD, problem: Problem) -> None:
        super().__init__(method, problem)
        self._real, self._network, count = problem.real(), problem.network(), len(self.classes)
        self.labels = torch.full((len(self.images), count), 1 / count, device=self.device)
        self._adam = adam([self.labels], self.recipe.lr, self.recipe.momentum)
        self._truth = self.classes.repeat_interleave(self.recipe.real_batch)
        self._network_adam = adam(self._network.parameters(), method.network_lr)
        networks.initialise(self._network, self.seed, 0)
        # For the present network: its last errors, the latest first; the number of its steps; the
        # steps since the lowest mean error; and that mean.
        self._errors = torch.zeros(method.patience)
        self._used, self._age, self._waited = (torch.zeros((), dtype=torch.int64) for _ in range(3))
        self._lowest = torch.full((), torch.inf)

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the labels, and one of the network, which may then be replaced."""
        order = torch.randperm(len(self.images), generator=generator(self.seed, "ld base", step))
        chosen = order[: self.method.inner_batch].to(self.images.device)
        base = self.augment.training(self.images[chosen], self.seed, step)
        drawn = self._real.batch(self.classes, step)
        real = self.augment.matching(drawn, self.classes, self.seed, step)
        weights = dict(self._network.named_parameters())
        labels = self.labels.detach().requires_grad_()
        loss, inner = self._soft_loss(base, labels[chosen], weights)
        moved = {
            name: weight - self.method.inner_lr * gradient
            for (name, weight), gradient in zip(weights.items(), inner, strict=True)
        }
        outer, error, slopes = self._judge(moved, real)
        (self.labels.grad,) = torch.autograd.grad(list(moved.values()), labels, slopes)
        self._adam.step()
        self.labels.clamp_(_SMALLEST, 1)
        self.labels.div_(self.labels.sum(dim=1, keepdim=True))
        for weight, gradient in zip(weights.values(), inner, strict=True):
            weight.grad = gradient.detach()
        self._network_adam.step()
        self._replace_if_done(float(error))
        return {"outer": outer, "inner": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """Labels, network, optimisers, and what decides when the network is replaced."""
        weights = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        counts = ("errors", "used", "age", "waited", "lowest")
        counted = {name: getattr(self, f"_{name}") for name in counts}
        optimisers = state_of("adam", self._adam) | state_of("network adam", self._network_adam)
        return {"labels": self.labels, **weights, **counted, **optimisers}

    def _soft_loss(
        self, images: Tensor, labels: Tensor, weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The cross-entropy of `images` with soft `labels`, and its differentiable gradient."""
        loss = functional.cross_entropy(self._network(images), labels)
        return loss, torch.autograd.grad(loss, list(weights.values()), create_graph=True)

    def _judge(
        self, weights: Mapping[str, Tensor], images: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The cross-entropy of all real images under `weights`, their error, and the gradient.

        The gradient is that of the cross-entropy with respect to each weight. It is computed block
        by block, so that memory does not grow with the number of images.
        """
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        slopes = [torch.zeros_like(weight) for weight in leaves.values()]
        loss, wrong = (torch.zeros((), device=images.device) for _ in range(2))
        block = len(images) if joins_images(self._network) else block_size(images, images.device)
        for part, truth in zip(images.split(block), self._truth.split(block), strict=True):
            logits = functional_call(self._network, leaves, (part,))
            of_part = functional.cross_entropy(logits, truth, reduction="sum") / len(images)
            torch._foreach_add_(slopes, torch.autograd.grad(of_part, list(leaves.values())))
            loss += of_part.detach()
            wrong += (logits.argmax(dim=1) != truth).sum()
        return loss, wrong / len(images), slopes

    def _replace_if_done(self, error: float) -> None:
        """Record the error after a step, and replace the network if it has stopped learning."""
        self._errors = torch.cat([torch.tensor([error]), self._errors[:-1]])
        self._age += 1
        if self._age < self.method.patience:
            return
        mean = self._errors.mean()
        if mean < self._lowest:
            self._lowest.copy_(mean)
            self._waited.zero_()
            return
        self._waited += 1
        if self._waited > self.method.patience:
            self._used += 1
            self._age.zero_()
            self._waited.zero_()
            self._lowest.fill_(torch.inf)
            networks.initialise(self._network, self.seed, int(self._used))
            forget(self._network_adam)
