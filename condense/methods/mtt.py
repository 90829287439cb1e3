"""MTT: training on the synthetic images should have the same effect as training on the real ones.

Cazenavette, Wang, Torralba, Efros and Zhu, "Dataset Distillation by Matching Training
Trajectories", CVPR 2022, algorithm 1. Every step draws an expert and a pass t < `max_start`. A
student starts from the expert's weights theta*_t and makes `student_steps` steps of gradient
descent on augmented batches of synthetic images, with the learned rate alpha:

    loss = || theta_N - theta*_t+M ||^2 / || theta*_t - theta*_t+M ||^2             (equation 2)

where M is `expert_passes`. Images and alpha move down its gradient, through all steps of the
student. `condensekit experts` trains the experts. The published code keeps the graph of all steps;
here only one step's graph exists at a time (`condense.training.descent`), for the same gradient.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from condense.errors import UserError
from condense.methods.base import Learner, Loop, Looping, Problem
from condense.randomness import generator
from condense.settings import above, at_least
from condense.training.descent import CrossEntropy, through_descent
from condense.training.experts import Experts

# By dataset and images per class: student steps, expert passes, latest start, learning rate of the
# images, learning rate of the rate, initial rate, batch, ZCA.
_PUBLISHED = {
    ("cifar10", 1): (50, 2, 2, 100.0, 1e-7, 0.01, None, True),
    ("cifar10", 10): (30, 2, 20, 100.0, 1e-5, 0.001, None, True),
    ("cifar10", 50): (30, 2, 40, 1000.0, 1e-5, 0.001, None, False),
    ("cifar100", 1): (20, 3, 20, 1000.0, 1e-5, 0.01, None, True),
    ("cifar100", 10): (20, 2, 20, 1000.0, 1e-5, 0.01, None, False),
    ("cifar100", 50): (80, 2, 40, 1000.0, 1e-5, 0.01, 125, True),
    ("tinyimagenet", 1): (10, 2, 10, 10_000.0, 1e-4, 0.01, None, False),
    ("tinyimagenet", 10): (20, 2, 40, 10_000.0, 1e-4, 0.01, 200, False),
    ("tinyimagenet", 50): (20, 2, 40, 10_000.0, 1e-4, 0.01, 300, False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MTT(Looping):
    """Algorithm 1 with its hyperparameters.

    The recipe's `lr` and `momentum` are those of the images. Its `real_batch` is not used.

    >>> from condense import Recipe, condense, load_dataset
    >>> from condense.training.experts import Training, train_experts
    >>> digits, network = load_dataset("digits"), "convnet-d2-w8"
    >>> training = Training(network=network, preprocess="standard", passes=2)
    >>> _ = train_experts(digits, training, 1, "experts", quiet=True)
    >>> method = MTT(experts="experts", student_steps=2, expert_passes=1, max_start=1)
    >>> recipe = Recipe(name="mine", method=method, network=network, steps=1)
    >>> list(condense(digits, ipc=1, recipe=recipe, quiet=True).provenance["learned"])
    ['lr']
    """

    name: ClassVar[str] = "mtt"

    experts: str = ""
    """The folder of the experts, made by `condensekit experts`."""
    student_steps: int = 30
    """Steps of the student (N in the paper)."""
    expert_passes: int = 2
    """Passes of the expert that the student should catch up with (M)."""
    max_start: int = 20
    """The student starts from an expert's weights after fewer passes than this (T+)."""
    first_rate: float = 0.01
    """The initial learning rate of the student."""
    rate_lr: float = 1e-5
    """The learning rate for the student's learning rate; 0 keeps it fixed."""
    batch: int | None = None
    """Synthetic images per step of the student. None means all."""

    def __post_init__(self) -> None:
        at_least(1, self, "student_steps", "expert_passes", "max_start", "batch")
        at_least(0, self, "rate_lr")
        above(0, self, "first_rate")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings of the published commands for CIFAR and Tiny ImageNet.

        Other datasets use those of CIFAR-100 at 10 images per class. Other numbers of images use
        the settings of the next larger published number.
        """
        size = 1 if ipc <= 1 else 10 if ipc <= 10 else 50
        known = dataset_name if (dataset_name, size) in _PUBLISHED else "cifar100"
        steps, passes, start, lr, rate_lr, rate, batch, zca = _PUBLISHED[
            known, size if known == dataset_name else 10
        ]
        return {
            "steps": 5000, "lr": lr, "momentum": 0.5, "preprocess": "zca" if zca else "standard",
            "student_steps": steps, "expert_passes": passes, "max_start": start,
            "first_rate": rate, "rate_lr": rate_lr, "batch": batch,
        }  # fmt: skip

    def learner(self, problem: Problem) -> Learner:
        """The learner of MTT."""
        return TrajectoryMatching(self, problem)


class TrajectoryMatching(Loop):
    """The learner of algorithm 1: images and the student's learning rate, both with momentum.

    Raises `UserError` if the experts are missing, too short, or do not fit the run.

    >>> from condense import Recipe, load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits, method = load_dataset("digits"), MTT()
    >>> problem = Problem(
    ...     dataset=digits,
    ...     recipe=Recipe(name="mine", method=method, network="convnet-d2-w8"),
    ...     start=noise(digits, ipc=1, preprocess=make_preprocess("standard", digits), seed=0),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ... )
    >>> TrajectoryMatching(method, problem)
    Traceback (most recent call last):
    condense.errors.UserError: `experts` is missing: give --experts DIR, ...
    """

    def __init__(self, method: MTT, problem: Problem) -> None:
        super().__init__(method, problem)
        if not method.experts:
            raise UserError(
                "`experts` is missing: give --experts DIR, a folder that `condensekit experts` made"
            )
        self.experts = Experts(method.experts)
        self.experts.check_fit(problem.dataset, self.recipe.network, self.recipe.preprocess)
        if method.max_start - 1 + method.expert_passes > self.experts.passes:
            raise UserError(
                f"`max_start` {method.max_start} and `expert_passes` {method.expert_passes} "
                f"need experts of {method.max_start - 1 + method.expert_passes} passes, "
                f"those in {method.experts} have {self.experts.passes}"
            )
        self.loss = CrossEntropy(problem.network(), self.recipe.network)
        self.targets = problem.start.labels.to(self.device)
        self.momentum = torch.zeros_like(self.images)
        self.rate = torch.tensor(method.first_rate, device=self.device)
        self.rate_momentum = torch.zeros_like(self.rate)

    def step(self, step: int) -> dict[str, Tensor]:
        """Train one student from a point of an expert's training.

        Returns the loss, which is 1 for a student that does not move at all.
        """
        method, draw = self.method, generator(self.seed, "expert", step)
        expert = int(torch.randint(self.experts.count, (), generator=draw))
        first = int(torch.randint(method.max_start, (), generator=draw))
        start, target = (
            part.to(self.device)
            for part in self.experts.weights(expert, first, first + method.expert_passes)
        )
        scale = (start - target).square().sum()

        def distance(weights: Tensor) -> tuple[Tensor, Tensor]:
            return (weights - target).square().sum() / scale, 2 * (weights - target) / scale

        batches = self._batches(step)

        def batch(number: int, images: Tensor) -> tuple[Tensor, Tensor]:
            chosen = batches[number]
            return self.augment.training(
                images[chosen], self.seed, step * method.student_steps + number
            ), self.targets[chosen]

        rates = self.rate.expand(method.student_steps)
        loss, of_images, of_rates = through_descent(
            self.loss, start, self.images, rates, batch, distance
        )
        self.momentum.mul_(self.recipe.momentum).add_(of_images)
        self.images -= self.recipe.lr * self.momentum
        self.rate_momentum.mul_(self.recipe.momentum).add_(of_rates.sum())
        self.rate -= method.rate_lr * self.rate_momentum
        return {"trajectory": loss}

    def tensors(self) -> dict[str, Tensor]:
        """Images and rate, with their momenta."""
        names = ("images", "momentum", "rate", "rate_momentum")
        return {name: getattr(self, name) for name in names}

    def learned(self) -> dict[str, Any]:
        """The learning rate with which a network should be trained on the images."""
        return {"lr": float(self.rate)}

    def _batches(self, step: int) -> list[Tensor]:
        """The images of each step of the student.

        All images are taken batch by batch, in a new order each time they are used up.
        """
        size, batches = self.method.batch or len(self.images), list[Tensor]()
        while len(batches) < self.method.student_steps:
            draw = generator(self.seed, "student order", step, len(batches))
            order = torch.randperm(len(self.images), generator=draw)
            batches += order.to(self.device).split(size)
        return batches
