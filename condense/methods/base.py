"""What a method is, what it receives and returns, and helpers that several methods share.

A run drives a `Learner`: images, and for some methods labels, that are learned step by step. All
matching methods share one learner, the engine of a run. A method with an outer loop of its own
brings its own learner. Commands, checkpoints, resuming, saving and evaluation are the same for
both, and know nothing else about a method.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.data.batches import RealImages
from condense.data.images import Dataset
from condense.errors import UserError, unknown
from condense.networks import build as networks
from condense.networks.base import Network
from condense.sets.condensed import CondensedSet
from condense.settings import above, at_least, check_literals, replaced, require
from condense.training.pool import TRAININGS

Described = list[Tensor]
"""What is matched, for each image: tensors [N, D_l], or by class [C, images per class, D_l]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method(ABC):
    """A condensation method: its hyperparameters, and the computation that defines it.

    >>> from condense.methods import DM, METHODS
    >>> issubclass(DM, Method), METHODS["dm"] is DM
    (True, True)
    >>> DM.published("cifar10", (3, 32, 32), ipc=10)
    {'steps': 20000, 'lr': 1.0}
    """

    name: ClassVar[str]
    """Its name in `condense.methods.METHODS` and on the command line."""
    matches_embedding: ClassVar[bool] = False
    """Whether the last tensor that is matched is the network's embedding.

    Calibration requires this."""

    @classmethod
    @abstractmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings of its authors for images of `shape` (ch, H, W).

        These are fields of the recipe and of the method, where they differ from the defaults.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching(Method):
    """A method that matches a description of real and synthetic images under a network.

    The loss of a class depends only on the images of that class, so that the engine may process the
    classes in chunks.

    >>> from condense.methods import MMD
    >>> real, synthetic = [torch.ones(1, 8, 3)], [torch.zeros(1, 2, 3)]  # one class
    >>> MMD().parts(real, synthetic)
    {'mmd': tensor([3.])}
    """

    @abstractmethod
    def describe(self, network: Network, images: Tensor) -> Described:
        """What is matched of `images` [N, ch, H, W] under `network`: tensors [N, D_l]."""

    @abstractmethod
    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The terms of the loss by name, each [C]; their sum is the loss of each class.

        `real` holds tensors [C, B, D_l] without gradient, `synthetic` [C, I, D_l] with gradient.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Looping(Method):
    """A method that has its own outer loop and therefore makes its own learner.

    >>> from condense.methods import DC, DM
    >>> isinstance(DC(), Looping), isinstance(DM(), Looping)
    (True, False)
    """

    @abstractmethod
    def learner(self, problem: "Problem") -> "Learner":
        """The learner of a run.

        Raises `UserError` for what is impossible, before anything is written.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a set is condensed, for any dataset.

    Everything here affects the result. Apart from the seed, nothing else does. Raises `UserError`
    for a value out of range.

    >>> from condense.methods import DM
    >>> recipe = Recipe(name="mine", method=DM(), steps=500)
    >>> recipe.override({"lr": "0.1", "loss_scale": 10}).method.loss_scale
    10.0
    >>> Recipe(name="mine", method=DM(), momentum=2)
    Traceback (most recent call last):
    condense.errors.UserError: `momentum` is 2: it must be in [0, 1)
    """

    name: str
    """The named recipe that this one started from."""
    method: Method
    """The method, with its own hyperparameters."""
    network: str = "convnet"
    """The network, by name (see `condense.networks.build`): one of ours, timm/NAME,
    torchvision/NAME, or FILE.py:FUNCTION for your own.

    Images are matched under random initialisations of it."""
    real_batch: int = 256
    """Real images of each class per step."""
    steps: int = 8000
    """The number of steps, each under a freshly initialised network."""
    lr: float = 1.0
    """The learning rate of the pixels (SGD without weight decay)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Whether the learning rate stays, or falls to 0 along half a cosine."""
    momentum: float = 0.5
    """The momentum of the pixels, in [0, 1)."""
    init: str = "random"
    """The starting images: a selection of real ones (`random`, `kcenter`, ...) or `noise`."""
    preprocess: str = "standard"
    """`standard` or `zca`. The set is stored and evaluated in this form."""
    augment: str = "dsa"
    """Siamese augmentation: the same for the real and the synthetic images of a class."""
    formation: int = 1
    """The f of IDC's multi-formation: each stored image is a mosaic of f x f images.

    They are enlarged before they are matched and trained on."""
    pool: int = 0
    """The number of networks in a pool of networks that are trained on the real images.

    Each step then matches under a point of the training of one of them. 0: random networks."""
    pool_steps: int = 800
    """The number of training steps of each of these networks, with 64 real images per step.

    Training ends after 60 passes over the real images in any case."""
    pool_training: str = "cosine"
    """How they are trained, one of `condense.training.pool.TRAININGS`.

    `cosine` is short and uses the recipe's augmentation. `idc` is that of the methods after IDC:
    CutMix, colour and crop, and a rate in stairs."""
    pool_epochs: int | None = None
    """The number of passes over the real images in place of `pool_steps`."""
    pool_seed: int | None = None
    """The seed of the pool's training, so that all runs can share it; by default the run's."""
    pool_from: float = 0.0
    """Where the points to match under begin, from the first (0) to the last (1) weights."""
    pool_to: float = 1.0
    """Where these points end, in [`pool_from`, 1]."""
    pool_points: Literal["line", "passes"] = "line"
    """Points on the line between a network's first and last weights, or its weights after a pass.

    The latter are stored in float16."""
    calibration: float = 0.0
    """Weight of the cross-entropy of the synthetic images under the pool's network.

    Only for methods that match the embedding of the network."""
    calibrate_under: Literal["drawn", "last"] = "drawn"
    """The network of the calibration.

    `drawn` is that of the step, and both losses make one gradient. `last` is the fully trained
    network that it stands for; the images are then calibrated in a step of their own."""
    clamp: bool = False
    """Whether every step ends with the images clamped to what a picture can hold."""
    soft_labels: bool = False
    """Whether the networks of the pool give the finished images soft labels.

    A soft label is half the hard label and half the mean prediction of the networks."""

    def __post_init__(self) -> None:
        at_least(0, self, "steps", "pool", "calibration")
        at_least(1, self, "real_batch", "formation", "pool_steps", "pool_epochs")
        above(0, self, "lr")
        require("real_batch", self.real_batch, self.real_batch <= 1_000_000, "1,000,000 or fewer")
        check_literals(self)
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("pool_to", self.pool_to, self.pool_to <= 1, "1 or less")
        begins = 0 <= self.pool_from <= self.pool_to
        wanted = f"in [0, {self.pool_to}], where `pool_to` ends"
        require("pool_from", self.pool_from, begins, wanted)
        labels = isinstance(self.soft_labels, bool) and (self.pool > 0 or not self.soft_labels)
        require("soft_labels", self.soft_labels, labels, "false, or with a pool true")
        calibrates = not self.calibration or (self.pool > 0 and self.method.matches_embedding)
        wanted = "0, but for datadam and dm with a pool"
        require("calibration", self.calibration, calibrates, wanted)
        if self.pool_training not in TRAININGS:
            raise unknown("training of a pool", self.pool_training, TRAININGS)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        >>> from condense.methods import DM
        >>> recipe = Recipe(name="mine", method=DM(), lr=2.0, steps=4, schedule="cosine")
        >>> [round(recipe.rate(step), 2) for step in range(4)]
        [2.0, 1.71, 1.0, 0.29]
        """
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * step / self.steps))

    def to_json(self) -> dict[str, Any]:
        """All hyperparameters; `condense.methods.recipes.from_json` reads them back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"method": {"name": self.method.name, **dataclasses.asdict(self.method)}}

    def override(self, changes: Mapping[str, Any]) -> "Recipe":
        """This recipe with some fields changed, either its own or those of its method.

        Text is converted to the type of the field. Raises `UserError` for an unknown field or an
        invalid value.
        """
        own = {field.name for field in dataclasses.fields(self)} - {"name", "method"}
        theirs = {field.name for field in dataclasses.fields(self.method)}
        for key in changes:
            if key not in own | theirs:
                raise unknown(f"setting of {self.method.name}", key, sorted(own | theirs))
        recipe = replaced(self, {key: value for key, value in changes.items() if key in own})
        of_method = {key: value for key, value in changes.items() if key in theirs}
        return dataclasses.replace(recipe, method=replaced(self.method, of_method))


_EXPLODED = 1e4
"""The largest plausible absolute value of a preprocessed pixel; real images stay within 10."""


class Diverged(UserError):
    """The loss or the pixels are no longer finite or plausible.

    The message says at which step, and what to lower.

    >>> issubclass(Diverged, UserError)
    True
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What to condense, and how.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods import DC
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> problem = Problem(
    ...     dataset=digits,
    ...     recipe=Recipe(name="mine", method=DC(), network="convnet-d2-w8", real_batch=4),
    ...     start=noise(digits, ipc=1, preprocess=make_preprocess("standard", digits), seed=0),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ... )
    >>> learner = problem.recipe.method.learner(problem)
    >>> learner.images.shape
    torch.Size([10, 1, 8, 8])
    """

    dataset: Dataset
    """The real images. Only the training images may be used."""
    recipe: Recipe
    """Every hyperparameter."""
    start: CondensedSet
    """The starting images, with their preprocessing.

    They are ordered by class, with the same number for each class."""
    seed: int
    """Together with the step and the class it determines every draw."""
    device: torch.device
    """The device to compute on."""

    @property
    def classes(self) -> Tensor:
        """All classes, int64 [C], on the device."""
        return torch.arange(len(self.dataset.classes), device=self.device)

    def real(self) -> RealImages:
        """The real images, as many of each class at once as the recipe says."""
        preprocess, count = self.start.preprocess, self.recipe.real_batch
        return RealImages(self.dataset, preprocess, count, self.seed, self.device)

    def network(self) -> Network:
        """A new network of the recipe, on the device, in training mode."""
        made = networks.build(self.recipe.network, self.dataset.shape, len(self.dataset.classes))
        return made.to(self.device).train()


class Learner(ABC):
    """Images that are learned, and the step that changes them.

    On a CPU, the same number of steps from the same state gives the same bits.

    >>> class Darken(Learner):
    ...     def __init__(self) -> None:
    ...         self.classes, self.images = torch.arange(2), torch.ones(2, 1, 8, 8)
    ...     def step(self, step: int) -> dict[str, Tensor]:
    ...         self.images *= 0.5
    ...         return {"brightness": self.images.mean()}
    ...     def tensors(self) -> dict[str, Tensor]:
    ...         return {"images": self.images}
    >>> learner = Darken()
    >>> start = learner.state()
    >>> learner.read(learner.step(0), done=1)
    {'brightness': 0.5}
    >>> learner.load_state(start)
    >>> learner.images.mean()
    tensor(1.)
    """

    classes: Tensor
    """The classes of this learner, int64: all of them, or those of one of several ranks."""
    images: Tensor
    """The learned images, float32 [classes * I, ch, H, W], ordered as in `classes`."""
    labels: Tensor | None = None
    """The learned labels, float32 [N, C]; None if labels are not learned."""

    @abstractmethod
    def step(self, step: int) -> dict[str, Tensor]:
        """Carry out step number `step`, counted from 0.

        Returns the terms of the loss by name: scalars on the device, which the next step may
        overwrite. Every random number must be a function of the seed and `step`.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by name, that a step changes and the next step needs.

        A checkpoint holds these and the number of the step.
        """

    def learned(self) -> dict[str, Any]:
        """Anything else that was learned and belongs to the set, as JSON: a learning rate, say."""
        return {}

    def read(self, totals: dict[str, Tensor], done: int) -> dict[str, float]:
        """The terms of the loss that `step` returned, as numbers, after `done` steps.

        This waits for the device. Raises `Diverged`.
        """
        losses = {name: float(total) for name, total in totals.items()}
        finite = all(map(math.isfinite, losses.values()))
        if not (finite and self.images.abs().amax() < _EXPLODED):
            raise Diverged(
                f"the loss diverged by step {done} (not finite, or pixels beyond reason): lower "
                "--lr or --loss-scale"
            )
        return losses

    def state(self) -> dict[str, Tensor]:
        """A copy of `tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state[name])


class Loop(Learner):
    """A learner of all classes, from the starting images of a problem; subclasses add the rest.

    >>> from condense.methods.dc import GradientMatching
    >>> issubclass(GradientMatching, Loop)
    True
    """

    def __init__(self, method: Any, problem: Problem) -> None:
        self.method, self.recipe, self.seed = method, problem.recipe, problem.seed
        self.classes, self.device = problem.classes, problem.device
        self.images = problem.start.images.to(problem.device, copy=True)
        self.per_class = len(self.images) // len(self.classes)
        self.augment = make_augment(problem.recipe.augment)
