"""What a method is, and what several of them need."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from condense.errors import UserError
from condense.learner import Learner, Problem
from condense.zoo import Network

Described = list[Tensor]
"""What is matched of each image: tensors [N, D_l], or grouped by class [C, images of a class, D_l]."""


@runtime_checkable
class Matching(Protocol):
    """A matching method: a frozen dataclass of hyperparameters with the computation that defines it.

    The loss of a class depends on that class's images alone, so the engine may treat the classes in chunks.
    """

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """Its authors' settings for images `shape` (ch, H, W): the recipe's fields and its own, where not the defaults."""
        ...

    def describe(self, network: Network, images: Tensor) -> Described:
        """What is matched of each of `images` [N, ch, H, W] under a network: tensors [N, D_l]."""
        ...

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """Named terms, each [C], whose sum is the loss of each class.

        `real` holds tensors [C, B, D_l] without gradient, `synthetic` [C, I, D_l] with.
        """
        ...


@runtime_checkable
class Looping(Protocol):
    """A method with an outer loop of its own: a frozen dataclass of hyperparameters that makes the learner."""

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """As for `Matching`."""
        ...

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run. Raises `UserError` for what cannot be done, before anything is written."""
        ...


Method = Matching | Looping


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


def require(name: str, value: Any, valid: bool, accepted: str) -> None:
    """Raise a `UserError` that names the hyperparameter and what it accepts, unless `valid`."""
    if not valid:
        raise UserError(f"`{name}` is {value!r}: it must be {accepted}")
