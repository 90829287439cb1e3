"""What a run drives: images (and, for some methods, labels) that are learned step by step.

The engine is the learner of every matching method. A method with an outer loop of its own brings its own learner; both
share the command, the checkpoints, the resuming, the saving and the evaluation, which know nothing else of them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condense.errors import UserError

if TYPE_CHECKING:
    from condense.data import Dataset
    from condense.recipes import Recipe
    from condense.store import CondensedSet

_EXPLODED = 1e4
"""Pixels this far from 0, in preprocessed units, come of a diverged run: real ones are within 10."""


class Diverged(UserError):
    """The loss or the pixels are no longer finite or within reason. The text says when, and what to lower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is to be condensed, and how."""

    dataset: "Dataset"
    """The real images; only the training half may be read."""
    recipe: "Recipe"
    """Every hyperparameter."""
    start: "CondensedSet"
    """The starting images, class-major, equally many of each class, with the preprocessing they live in."""
    seed: int
    """With the step and the class it determines every draw."""
    device: torch.device
    """Where the work is done."""


class Learner(ABC):
    """Learned images and the step that changes them; after equal steps from an equal state the bits are equal (on a CPU)."""

    classes: Tensor
    """The classes of this learner, int64: all, or those of one of several ranks."""
    images: Tensor
    """What has been learned: float32 [classes * I, ch, H, W], class-major in the order of `classes`."""
    labels: Tensor | None = None
    """Learned labels, float32 [N, C]; None where the labels stay as they were."""

    @abstractmethod
    def step(self, step: int) -> dict[str, Tensor]:
        """Carry out step number `step`, from 0; returns the named parts of the loss, scalars on the device.

        Whatever is drawn is a function of the seed and `step`. The result is good until the next step.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes and the next one needs, by name: what a checkpoint holds beside the number of the step."""

    def learned(self) -> dict[str, Any]:
        """What was learned beside images and labels and belongs to the set, JSON-able: the rate to train by, say."""
        return {}

    def read(self, totals: dict[str, Tensor], done: int) -> dict[str, float]:
        """What `step` returned, as numbers, after `done` steps. Waits for the device. Raises `Diverged`."""
        losses = {name: float(total) for name, total in totals.items()}
        if not (torch.tensor(list(losses.values())).isfinite().all() and self.images.abs().amax() < _EXPLODED):
            raise Diverged(f"the loss diverged by step {done} (not finite, or pixels beyond reason): lower --lr or --loss-scale")
        return losses

    def state(self) -> dict[str, Tensor]:
        """A copy of `tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state[name])
