"""What a matching method is, and what several of them need."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from condense.errors import UserError

Described = list[Tensor]
"""What is matched of each image: tensors [N, D_l], or grouped by class [C, images of a class, D_l]."""


class Method(Protocol):
    """A matching method: a frozen dataclass of hyperparameters with the computation that defines it.

    The loss of a class depends on that class's images alone, so the engine may treat the classes in chunks.
    """

    def describe(self, maps: Sequence[Tensor], embedding: Tensor) -> Described:
        """What is matched of each image, from the layers' maps [N, ch_l, H_l, W_l] and the embedding [N, D]."""
        ...

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """Named terms, each [C], whose sum is the loss of each class.

        `real` holds tensors [C, B, D_l] without gradient, `synthetic` [C, I, D_l] with.
        """
        ...


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
