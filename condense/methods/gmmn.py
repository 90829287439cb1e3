"""GMMN: a generator whose images have the same moments as the real ones.

Li, Swersky and Zemel, "Generative Moment Matching Networks", ICML 2015: the square root of the
squared maximum mean discrepancy (equation 2) between real and generated images, in pixel space,
with a sum of Gaussian kernels. Here it is computed for each class, since a set needs labels.
Latents are uniform in [-1, 1).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from condense.methods.base import Learner, Problem
from condense.methods.generative import START, Generative, Generator
from condense.methods.shares import share
from condense.settings import require

_BLOCK = 256
"""Images that are generated at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GMMN(Generator):
    """The loss of the paper.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=GMMN(width=8), real_batch=4, steps=1, lr=1e-3)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "gmmn"

    bandwidths: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """Squared widths of the kernels.

    The unit is the mean squared distance between two real images of the class."""

    def __post_init__(self) -> None:
        Generator.__post_init__(self)
        valid = bool(self.bandwidths) and min(self.bandwidths) > 0
        require("bandwidths", self.bandwidths, valid, "numbers above 0")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """1,000 real images per step.

        The paper tunes bandwidths in pixels for each dataset; here they are relative to the data.
        """
        adam = {"lr": 1e-3, "momentum": 0.9}
        return START | adam | {"steps": 40_000, "real_batch": share(1000, dataset_name)}

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def squared_mmd(real: Tensor, generated: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """The squared maximum mean discrepancy of [C, B, D] and [C, M, D], for each class: [C].

    Pairs of an image with itself are included.

    >>> real = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> squared_mmd(real, real, (0.5, 1.0)).abs().item() < 1e-6
    True
    """
    to_real, across, to_generated = (
        _squared_distances(a, b)
        for a, b in ((real, real), (real, generated), (generated, generated))
    )
    # The mean over pairs of two different images.
    unit = to_real.sum(dim=(1, 2)) / (real.shape[1] * max(1, real.shape[1] - 1))

    def mean_kernel(distances: Tensor) -> Tensor:
        relative = distances / unit[:, None, None]
        return torch.stack(
            [torch.exp(-relative / (2 * width)).mean(dim=(1, 2)) for width in bandwidths]
        ).sum(dim=0)

    return mean_kernel(to_real) - 2 * mean_kernel(across) + mean_kernel(to_generated)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """The squared distances of all pairs of [C, N, D] and [C, M, D]: [C, N, M]."""
    products = a @ b.transpose(1, 2)
    return (
        a.square().sum(dim=2)[:, :, None] + b.square().sum(dim=2)[:, None] - 2 * products
    ).clamp(min=0)


class _Learner(Generative):
    def __init__(self, method: GMMN, problem: Problem) -> None:
        super().__init__(problem, method.latent, method.width)
        self._bandwidths = method.bandwidths

    def latents(self, purpose: str, step: int, per_class: int) -> Tensor:
        """Latents that are uniform in [-1, 1)."""
        return self.uniform_latents(purpose, step, per_class)

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the generator."""
        real = self.real.batch(self.classes, step)
        latents = self.latents("latents", step, self.batch).split(_BLOCK)
        parts = zip(latents, self.truth.split(_BLOCK), strict=True)
        # The backward pass generates each block again. Otherwise memory would have to hold every
        # layer for all images.
        generated = torch.cat(
            [checkpoint(self.generator, *part, use_reentrant=False) for part in parts]
        )
        by_class = [
            images.flatten(1).unflatten(0, (len(self.classes), -1)) for images in (real, generated)
        ]
        loss = squared_mmd(by_class[0], by_class[1], self._bandwidths).clamp(min=1e-12).sqrt().sum()
        self.move(loss, self.adam)
        return {"mmd": loss.detach()}
