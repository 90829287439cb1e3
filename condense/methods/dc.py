"""DC: match the gradients that real and synthetic images give a network, while it is trained on the synthetic ones.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, algorithm 1. In every step a fresh network
theta; then, `outer_loops` times, with B_c a batch of real images of class c and S_c all synthetic ones:

    S_c   <- S_c - lr * gradient of D(gradient of L(S_c, theta), gradient of L(B_c, theta))   for each class c
    theta <- theta after `inner_loops` passes over S                                          but for the last time
    D(a, b) = sum over layers, over output nodes i of 1 - cos(a_i, b_i)                       (equations 9 and 10)

a_i are the weights that lead to node i. Parameters with a single number a node (biases, normalisations) are left out, as in
the authors' code: the cosine of single numbers is a sign.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.data.batches import RealImages
from condense.methods.base import Learner, Looping, Problem
from condense.networks import build as networks
from condense.randomness import generator
from condense.settings import require
from condense.training.descent import CrossEntropy

_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Outer and inner loops by images a class, as published; numbers between take the next."""
_BATCH = 256
"""Images in a step of the network's training."""
_TINY = 1e-6
"""Added to the product of the lengths, as in the authors' code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DC(Looping):
    """The loops of algorithm 1. A step of the recipe is one of its K outermost iterations: one network."""

    name: ClassVar[str] = "dc"

    outer_loops: int = 1
    """Times that the images are matched in a step (the paper's T)."""
    inner_loops: int = 1
    """Passes over the synthetic images by which the network is trained between two matchings."""
    net_lr: float = 0.01
    """Learning rate of the network."""
    net_momentum: float = 0.5
    """Momentum of the network, in [0, 1)."""

    def __post_init__(self) -> None:
        require("outer_loops", self.outer_loops, self.outer_loops >= 1, "1 or more")
        require("inner_loops", self.inner_loops, self.inner_loops >= 1, "1 or more")
        require("net_lr", self.net_lr, self.net_lr > 0, "above 0")
        require("net_momentum", self.net_momentum, 0 <= self.net_momentum < 1, "in [0, 1)")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The paper's and its code's: 1,000 networks, and as many matchings of each as there are images a class, up to 50."""
        outer, inner = next((loops for most, loops in _LOOPS.items() if ipc <= most), _LOOPS[50])
        return {
            "steps": 1000, "real_batch": 256, "lr": 0.1, "momentum": 0.5, "init": "noise", "augment": "none",
            "outer_loops": outer, "inner_loops": inner,
        }  # fmt: skip

    def learner(self, problem: Problem) -> Learner:
        """The learner of DC, and of DSA: what tells them apart is the recipe's augmentation."""
        return GradientMatching(self, problem)


class GradientMatching(Learner):
    """Algorithm 1. Given the network the classes do not depend on each other, so each is moved as soon as it is matched."""

    def __init__(self, method: DC, problem: Problem) -> None:
        dataset, recipe, device = problem.dataset, problem.recipe, problem.device
        num_classes = len(dataset.classes)
        self.method, self.recipe, self.seed = method, recipe, problem.seed
        network = networks.build(recipe.network, dataset.shape, num_classes).to(device).train()
        self.loss = CrossEntropy(network, recipe.network)
        self.augment = make_augment(recipe.augment)
        self.real = RealImages(
            dataset, problem.start.preprocess, recipe.real_batch, problem.seed, device
        )
        self.classes = torch.arange(num_classes, device=device)
        self.images = problem.start.images.to(device, torch.float32, copy=True)
        self.momentum = torch.zeros_like(self.images)
        self.per_class = len(self.images) // num_classes

    def step(self, step: int) -> dict[str, Tensor]:
        """One network: match, train, match, ... Returns the distance, summed over the classes, averaged over the matchings."""
        weights = self.loss.fresh(self.seed, step)
        velocity, distance = torch.zeros_like(weights), weights.new_zeros(())
        for loop in range(self.method.outer_loops):
            number = step * self.method.outer_loops + loop  # of the matching, over the whole run
            for rows, label in zip(
                torch.arange(len(self.images)).split(self.per_class),
                self.classes.split(1),
                strict=True,
            ):
                part, gradient = self.gradient(weights, rows, label, number)
                distance += part
                self.momentum[rows] = self.recipe.momentum * self.momentum[rows] + gradient
                self.images[rows] -= self.recipe.lr * self.momentum[rows]
            if loop < self.method.outer_loops - 1:
                weights, velocity = self._train(weights, velocity, number)
        return {"distance": distance / self.method.outer_loops}

    def gradient(
        self, weights: Tensor, rows: Tensor, label: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """D of one class (`label`, int64 [1]) in matching `number`, and its gradient with respect to the images at `rows`."""
        real = self.augment.matching(self.real.batch(label, number), label, self.seed, number)
        wanted = self.loss.gradient(weights, real, label.expand(len(real)))[1]
        leaf = self.images[rows].requires_grad_()
        drawn, labels = (
            self.augment.matching(leaf, label, self.seed, number),
            label.expand(len(rows)),
        )
        given = self.loss.gradient(weights, drawn, labels)[1].requires_grad_()
        distance = gradient_distance(self.loss.layers(wanted), self.loss.layers(given))
        # D depends on the images by way of `given`: its gradient there is the direction whose product is pulled back.
        (direction,) = torch.autograd.grad(distance, given)
        of_drawn = self.loss.pull_back(weights, drawn, labels, direction, to_weights=False)[1]
        return distance.detach(), torch.autograd.grad(drawn, leaf, of_drawn)[0]

    def tensors(self) -> dict[str, Tensor]:
        """The images and their momentum: the network is drawn anew in every step."""
        return {"images": self.images, "momentum": self.momentum}

    def _train(self, weights: Tensor, velocity: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Weights and velocity after `inner_loops` passes over the synthetic images, by SGD with momentum."""
        labels = self.classes.repeat_interleave(self.per_class)
        batches = -(-len(labels) // _BATCH)
        for loop in range(self.method.inner_loops):
            place = number * self.method.inner_loops + loop  # of the pass, over the whole run
            order = torch.randperm(
                len(labels), generator=generator(self.seed, "network order", place)
            ).to(labels.device)
            for index, chosen in enumerate(order.split(_BATCH)):
                images = self.augment.training(
                    self.images[chosen], self.seed, place * batches + index
                )
                velocity = (
                    self.method.net_momentum * velocity
                    + self.loss.gradient(weights, images, labels[chosen])[1]
                )
                weights = weights - self.method.net_lr * velocity
        return weights, velocity


def gradient_distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """D: over all parameters with several numbers a node, the sum of 1 - cos of what leads to each node (its first axis)."""
    total = next(iter(a.values())).new_zeros(())
    for of_a, of_b in zip(a.values(), b.values(), strict=True):
        if of_a.ndim > 1:
            rows_a, rows_b = of_a.flatten(1), of_b.flatten(1)
            lengths = torch.linalg.vector_norm(rows_a, dim=1) * torch.linalg.vector_norm(
                rows_b, dim=1
            )
            total = total + (1 - (rows_a * rows_b).sum(dim=1) / (lengths + _TINY)).sum()
    return total
