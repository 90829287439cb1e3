"""DD: a fresh network should do well on real images after a few steps on the synthetic ones.

Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, algorithm 1 with random initial
weights. With I images per class, step i of the network uses the i-th image of each class. It goes
through all of them `passes` times, with different learning rates each time: T = passes * I steps in
all. Every step of the recipe takes fresh weights theta_0 and a batch B of real images:

    theta_t+1 = theta_t - eta_t * gradient of L(S_t mod I, theta_t)
    images and rates eta move down the gradient of L(B, theta_T), through all T steps.

As in the authors' code, the rates are kept positive (eta is the softplus of what is learned), and
images and rates are moved by Adam with a learning rate that is halved at intervals. A batch holds
the same number of images of each class, while theirs is drawn from all images.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from condense.methods.base import Learner, Loop, Looping, Problem
from condense.settings import above, at_least
from condense.training.descent import CrossEntropy, through_descent

_BETA2, _TINY = 0.999, 1e-8
"""Constants of Adam. Its beta_1 is the momentum of the recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DD(Looping):
    """Algorithm 1 with its hyperparameters.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam.

    >>> from condense import Recipe, condense, load_dataset
    >>> method = DD(passes=2)
    >>> recipe = Recipe(name="mine", method=method, network="convnet-d2-w8", real_batch=8, steps=1)
    >>> condensed = condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True)
    >>> len(condensed.provenance["learned"]["rates"])
    2
    """

    name: ClassVar[str] = "dd"

    passes: int = 3
    """How often a network goes through the images."""
    first_rate: float = 0.02
    """The initial value of all learning rates of the network."""
    halve_every: int = 2000
    """The learning rate of Adam is halved after every so many steps."""

    def __post_init__(self) -> None:
        at_least(1, self, "passes", "halve_every")
        above(0, self, "first_rate")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings for CIFAR-10 with 10 images per class, from the paper and its code.

        The 400 passes over the real images in batches of 1,024 are some 20,000 steps. The rate is
        halved every 40 passes. The images start as noise and are not augmented. The network's
        first rate is 0.001 in the code's command for CIFAR-10, and 0.02 in the one for MNIST.
        """
        digits = dataset_name in ("digits", "mnist")
        return {
            "steps": 20_000, "real_batch": 100, "lr": 0.01, "momentum": 0.5, "init": "noise",
            "augment": "none", "passes": 3, "halve_every": 2000,
            "first_rate": 0.02 if digits else 0.001,
        }  # fmt: skip

    def learner(self, problem: Problem) -> Learner:
        """The learner of DD."""
        return Distillation(self, problem)


class Distillation(Loop):
    """The learner of algorithm 1: images and learning rates, moved by Adam.

    >>> from condense import Recipe, load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> problem = Problem(
    ...     dataset=digits,
    ...     recipe=Recipe(name="mine", method=DD(), network="convnet-d2-w8", real_batch=4),
    ...     start=noise(digits, ipc=1, preprocess=make_preprocess("standard", digits), seed=0),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ... )
    >>> learner = Distillation(DD(), problem)
    >>> list(learner.step(0))
    ['real']
    >>> len(learner.learned()["rates"])
    3
    """

    method: DD

    def __init__(self, method: DD, problem: Problem) -> None:
        super().__init__(method, problem)
        self.loss = CrossEntropy(problem.network(), self.recipe.network)
        self.real = problem.real()
        # The softplus of this number is the initial rate.
        first = torch.tensor(method.first_rate, dtype=torch.float64).expm1().log()
        self.raw_rates = first.float().repeat(method.passes * self.per_class).to(self.device)
        self._moments = {
            f"{name}.{moment}": torch.zeros_like(value)
            for name, value in (("images", self.images), ("raw_rates", self.raw_rates))
            for moment in ("mean", "square")
        }

    def step(self, step: int) -> dict[str, Tensor]:
        """Train one network, then move images and rates. Returns its loss on the real batch."""
        drawn = self.real.batch(self.classes, step)
        real = self.augment.matching(drawn, self.classes, self.seed, step)
        labels = self.classes.repeat_interleave(self.recipe.real_batch)

        def batch(number: int, images: Tensor) -> tuple[Tensor, Tensor]:
            chosen = images.unflatten(0, (-1, self.per_class))[:, number % self.per_class]
            counter = step * len(self.raw_rates) + number
            return self.augment.training(chosen, self.seed, counter), self.classes

        def outcome(weights: Tensor) -> tuple[Tensor, Tensor]:
            return self.loss.gradient(weights, real, labels)

        fresh, rates = self.loss.fresh(self.seed, step), functional.softplus(self.raw_rates)
        loss, of_images, of_rates = through_descent(
            self.loss, fresh, self.images, rates, batch, outcome
        )
        self._adam("images", self.images, of_images, step)
        self._adam("raw_rates", self.raw_rates, of_rates * torch.sigmoid(self.raw_rates), step)
        return {"real": loss}

    def tensors(self) -> dict[str, Tensor]:
        """Images and rates, with their moments."""
        return {"images": self.images, "raw_rates": self.raw_rates, **self._moments}

    def learned(self) -> dict[str, Any]:
        """The learning rates of a network's steps, in order."""
        return {"rates": functional.softplus(self.raw_rates).tolist()}

    def _adam(self, name: str, value: Tensor, gradient: Tensor, step: int) -> None:
        mean, square = self._moments[f"{name}.mean"], self._moments[f"{name}.square"]
        beta1, lr = self.recipe.momentum, self.recipe.lr * 0.5 ** (step // self.method.halve_every)
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - _BETA2)
        unbiased = (square / (1 - _BETA2 ** (step + 1))).sqrt()
        value -= lr / (1 - beta1 ** (step + 1)) * mean / (unbiased + _TINY)
