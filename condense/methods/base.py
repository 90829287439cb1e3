"""What a method is, what it is given, what it makes, and what several methods need.

A run drives a `Learner`: images (and, for some methods, labels) that are learned step by step. The engine is the learner
of every matching method; a method with an outer loop of its own brings its own. Both share the command, the checkpoints,
the resuming, the saving and the evaluation, which know nothing else of them.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from condense.data.images import Dataset
from condense.errors import UserError, unknown
from condense.networks.base import Network
from condense.sets.condensed import CondensedSet
from condense.settings import replaced, require

Described = list[Tensor]
"""What is matched of each image: tensors [N, D_l], or grouped by class [C, images of a class, D_l]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method(ABC):
    """A method: a frozen dataclass of hyperparameters with the computation that defines it."""

    name: ClassVar[str]
    """What it is called in `condense.methods.METHODS` and on the command line."""
    matches_embedding: ClassVar[bool] = False
    """Whether the last of what is matched is the network's embedding, which a calibration needs."""

    @classmethod
    @abstractmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """Its authors' settings for images `shape` (ch, H, W): the recipe's fields and its own, where not the defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching(Method):
    """A matching method.

    The loss of a class depends on that class's images alone, so the engine may treat the classes in chunks.
    """

    @abstractmethod
    def describe(self, network: Network, images: Tensor) -> Described:
        """What is matched of each of `images` [N, ch, H, W] under a network: tensors [N, D_l]."""

    @abstractmethod
    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """Named terms, each [C], whose sum is the loss of each class.

        `real` holds tensors [C, B, D_l] without gradient, `synthetic` [C, I, D_l] with.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Looping(Method):
    """A method with an outer loop of its own: it makes the learner."""

    @abstractmethod
    def learner(self, problem: "Problem") -> "Learner":
        """The learner of a run. Raises `UserError` for what cannot be done, before anything is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a set is condensed, whatever the dataset. Everything here changes the result; nothing else may, but the seed."""

    name: str
    """The named recipe this one started from."""
    method: Method
    """What is matched, with its own hyperparameters."""
    network: str = "convnet"
    """Network whose random initialisations are matched under; see `condense.networks`."""
    real_batch: int = 256
    """Real images of each class in a step."""
    steps: int = 8000
    """Steps, each under a freshly initialised network."""
    lr: float = 1.0
    """Learning rate of the pixels (SGD, no decay, no schedule)."""
    momentum: float = 0.5
    """Momentum of the pixels, in [0, 1)."""
    init: str = "random"
    """Starting images: a selection of real ones (`random`, `kcenter`, ...) or `noise`."""
    preprocess: str = "standard"
    """`standard` or `zca`; the set is stored and evaluated under it."""
    augment: str = "dsa"
    """Siamese augmentation, the same for real and synthetic images of a class."""
    formation: int = 1
    """f: each stored image is a mosaic of f x f, enlarged before they are matched and trained on (IDC's multi-formation)."""
    pool: int = 0
    """Networks trained on the real images; a step matches under a point of one's training. 0: under random networks."""
    pool_steps: int = 800
    """Steps each of them is trained for, on 64 real images each."""
    pool_from: float = 0.0
    """Where on the way from a network's first to its last weights the points that are matched under begin, in [0, 1]."""
    pool_to: float = 1.0
    """Where they end."""
    calibration: float = 0.0
    """Weight of the cross-entropy of the synthetic images under the pool's network, for methods that match its embedding."""
    soft_labels: bool = False
    """Whether the finished images are labelled by the pool's networks: half hard, half their mean answer."""

    def __post_init__(self) -> None:
        require("real_batch", self.real_batch, self.real_batch >= 1, "1 or more")
        require("steps", self.steps, self.steps >= 0, "0 or more")
        require("lr", self.lr, self.lr > 0, "above 0")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("formation", self.formation, self.formation >= 1, "1 or more")
        require("pool", self.pool, self.pool >= 0, "0 or more")
        require("pool_steps", self.pool_steps, self.pool_steps >= 1, "1 or more")
        require("pool_to", self.pool_to, self.pool_to <= 1, "1 or less")
        require(
            "pool_from",
            self.pool_from,
            0 <= self.pool_from <= self.pool_to,
            f"in [0, {self.pool_to}], where `pool_to` ends",
        )
        require("calibration", self.calibration, self.calibration >= 0, "0 or more")
        calibrates = self.pool > 0 and self.method.matches_embedding
        labels = isinstance(self.soft_labels, bool) and (self.pool > 0 or not self.soft_labels)
        require("soft_labels", self.soft_labels, labels, "false, or with a pool true")
        require(
            "calibration",
            self.calibration,
            not self.calibration or calibrates,
            "0, but for datadam and dm with a pool",
        )

    def to_json(self) -> dict[str, Any]:
        """All hyperparameters; `condense.methods.recipes.from_json` reads it back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"method": {"name": self.method.name, **dataclasses.asdict(self.method)}}

    def override(self, changes: Mapping[str, Any]) -> "Recipe":
        """This recipe with some fields changed, its own or its method's; text is read as the field's type."""
        own = {field.name for field in dataclasses.fields(self)} - {"name", "method"}
        theirs = {field.name for field in dataclasses.fields(self.method)}
        for key in changes:
            if key not in own | theirs:
                raise unknown(f"setting of {self.method.name}", key, sorted(own | theirs))
        method = replaced(
            self.method, {key: value for key, value in changes.items() if key in theirs}
        )
        return dataclasses.replace(
            replaced(self, {key: value for key, value in changes.items() if key in own}),
            method=method,
        )


_EXPLODED = 1e4
"""Pixels this far from 0, in preprocessed units, come of a diverged run: real ones are within 10."""


class Diverged(UserError):
    """The loss or the pixels are no longer finite or within reason. The text says when, and what to lower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is to be condensed, and how."""

    dataset: Dataset
    """The real images; only the training half may be read."""
    recipe: Recipe
    """Every hyperparameter."""
    start: CondensedSet
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
        if not (
            torch.tensor(list(losses.values())).isfinite().all()
            and self.images.abs().amax() < _EXPLODED
        ):
            raise Diverged(
                f"the loss diverged by step {done} (not finite, or pixels beyond reason): lower --lr or --loss-scale"
            )
        return losses

    def state(self) -> dict[str, Tensor]:
        """A copy of `tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state[name])


_CLASSES = {"cifar100": 100, "tinyimagenet": 200, "imagenet-1k": 1000}
"""Classes of the named datasets that have more than ten."""


def share(images: int, dataset_name: str) -> int:
    """Real images of each class that make a published batch of `images`, at least 1; ten classes where the name does not tell."""
    return max(1, images // _CLASSES.get(dataset_name, 10))


def mean_error(real: Tensor, synthetic: Tensor, error: str) -> Tensor:
    """Distance between the mean of `real` [C, B, D] and of `synthetic` [C, I, D]: [C].

    `mse` is the squared Euclidean distance (a sum, as the papers write it, not a mean), `mae` the sum of absolute
    differences, `cosine` 1 - cos of the angle.
    """
    real, synthetic = real.mean(dim=1), synthetic.mean(dim=1)
    if error == "mse":
        return (real - synthetic).square().sum(dim=1)
    if error == "mae":
        return (real - synthetic).abs().sum(dim=1)
    return 1 - functional.cosine_similarity(real, synthetic, dim=1)


def widen(values: Tensor) -> Tensor:
    """`values` in float32 at least: sums over channels and means over images are too much for half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
