"""DC: match the gradients of real and synthetic images in a network that is trained meanwhile.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, algorithm 1. Every
step starts with a fresh network theta. The following is repeated `outer_loops` times, with B_c a
batch of real images of class c and S_c all synthetic images of that class:

    S_c   <- S_c - lr * gradient of D(gradient of L(S_c, theta), gradient of L(B_c, theta))
             for each class c
    theta <- theta after `inner_loops` passes over S, except the last time
    D(a, b) = sum over layers, over output nodes i of 1 - cos(a_i, b_i)     (equations 9 and 10)

a_i are the gradients of the weights that lead to node i. Parameters with a single number per node
(biases, normalisations) are left out, as in the authors' code, because the cosine of two single
numbers is just a sign.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from condense.methods.base import Learner, Loop, Looping, Problem
from condense.randomness import generator
from condense.settings import above, at_least, require
from condense.training.descent import CrossEntropy

_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Outer and inner loops, as published, by images per class; other numbers use the next larger."""
_BATCH = 256
"""Images per step when training the network."""
_TINY = 1e-6
"""Added to the product of the lengths, as in the authors' code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DC(Looping):
    """The loops of algorithm 1.

    A step of the recipe is one of the K outermost iterations, with one network.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=DC(), network="convnet-d2-w8", real_batch=8, steps=1)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "dc"

    outer_loops: int = 1
    """How often the images are matched per step (T in the paper)."""
    inner_loops: int = 1
    """Passes over the synthetic images that train the network between two matchings."""
    net_lr: float = 0.01
    """The learning rate of the network."""
    net_momentum: float = 0.5
    """The momentum of the network, in [0, 1)."""

    def __post_init__(self) -> None:
        at_least(1, self, "outer_loops", "inner_loops")
        above(0, self, "net_lr")
        require("net_momentum", self.net_momentum, 0 <= self.net_momentum < 1, "in [0, 1)")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings of the paper and its code.

        There are 1,000 networks, each matched as often as there are images per class, up to 50.
        """
        outer, inner = next((loops for most, loops in _LOOPS.items() if ipc <= most), _LOOPS[50])
        return {
            "steps": 1000, "real_batch": 256, "lr": 0.1, "momentum": 0.5, "init": "noise",
            "augment": "none", "outer_loops": outer, "inner_loops": inner,
        }  # fmt: skip

    def learner(self, problem: Problem) -> Learner:
        """The learner of DC and of DSA, which differ only in the augmentation of the recipe."""
        return GradientMatching(self, problem)


class GradientMatching(Loop):
    """The learner of algorithm 1.

    For a given network the classes do not depend on each other. Each class is therefore moved as
    soon as it is matched.

    >>> from condense import Recipe, load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> problem = Problem(
    ...     dataset=digits,
    ...     recipe=Recipe(name="mine", method=DC(), network="convnet-d2-w8", real_batch=4),
    ...     start=noise(digits, ipc=1, preprocess=make_preprocess("standard", digits), seed=0),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ... )
    >>> learner = GradientMatching(DC(), problem)
    >>> list(learner.step(0))
    ['distance']
    """

    method: DC

    def __init__(self, method: DC, problem: Problem) -> None:
        super().__init__(method, problem)
        self.loss = CrossEntropy(problem.network(), self.recipe.network)
        self.real = problem.real()
        self.momentum = torch.zeros_like(self.images)

    def step(self, step: int) -> dict[str, Tensor]:
        """Match and train one network.

        Returns the distance, summed over classes and averaged over matchings.
        """
        weights = self.loss.fresh(self.seed, step)
        velocity, distance = torch.zeros_like(weights), weights.new_zeros(())
        for loop in range(self.method.outer_loops):
            number = step * self.method.outer_loops + loop  # of the matching, over the whole run
            for place, label in enumerate(self.classes.split(1)):
                rows = slice(place * self.per_class, (place + 1) * self.per_class)
                part, gradient = self.gradient(weights, rows, label, number)
                distance += part
                self.momentum[rows] = self.recipe.momentum * self.momentum[rows] + gradient
                self.images[rows] -= self.recipe.lr * self.momentum[rows]
            if loop < self.method.outer_loops - 1:
                weights, velocity = self._train(weights, velocity, number)
        return {"distance": distance / self.method.outer_loops}

    def gradient(
        self, weights: Tensor, rows: slice, label: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """D of one class, and its gradient with respect to the images at `rows`.

        `label` is the class, int64 [1]; `number` is that of the matching.
        """
        real = self.augment.matching(self.real.batch(label, number), label, self.seed, number)
        wanted = self.loss.gradient(weights, real, label.expand(len(real)))[1]
        leaf = self.images[rows].clone().requires_grad_()
        drawn = self.augment.matching(leaf, label, self.seed, number)
        labels = label.expand(len(leaf))
        given = self.loss.gradient(weights, drawn, labels)[1].requires_grad_()
        distance = gradient_distance(self.loss.layers(wanted), self.loss.layers(given))
        # D depends on the images through `given`. The gradient of D with respect to `given` is the
        # direction to pull back.
        (direction,) = torch.autograd.grad(distance, given)
        of_drawn = self.loss.pull_back(weights, drawn, labels, direction, to_weights=False)[1]
        return distance.detach(), torch.autograd.grad(drawn, leaf, of_drawn)[0]

    def tensors(self) -> dict[str, Tensor]:
        """The images and their momentum. The network is drawn again in every step."""
        return {"images": self.images, "momentum": self.momentum}

    def _train(self, weights: Tensor, velocity: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Weights and velocity after `inner_loops` passes of SGD with momentum."""
        labels = self.classes.repeat_interleave(self.per_class)
        batches = -(-len(labels) // _BATCH)
        for loop in range(self.method.inner_loops):
            place = number * self.method.inner_loops + loop  # of the pass, over the whole run
            draw = generator(self.seed, "network order", place)
            order = torch.randperm(len(labels), generator=draw).to(labels.device)
            for index, chosen in enumerate(order.split(_BATCH)):
                counter = place * batches + index
                images = self.augment.training(self.images[chosen], self.seed, counter)
                gradient = self.loss.gradient(weights, images, labels[chosen])[1]
                velocity = self.method.net_momentum * velocity + gradient
                weights = weights - self.method.net_lr * velocity
        return weights, velocity


def gradient_distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """D(a, b), the distance between two gradients, each given by parameter.

    For all parameters with several numbers per node (along the first axis), it sums 1 - cosine over
    the nodes.

    >>> a = {"weight": torch.eye(2), "bias": torch.ones(2)}
    >>> b = {"weight": -torch.eye(2), "bias": torch.ones(2)}
    >>> gradient_distance(a, b)
    tensor(4.0000)
    """
    total, norm = next(iter(a.values())).new_zeros(()), torch.linalg.vector_norm
    for of_a, of_b in zip(a.values(), b.values(), strict=True):
        if of_a.ndim > 1:
            rows_a, rows_b = of_a.flatten(1), of_b.flatten(1)
            lengths = norm(rows_a, dim=1) * norm(rows_b, dim=1)
            total = total + (1 - (rows_a * rows_b).sum(dim=1) / (lengths + _TINY)).sum()
    return total
