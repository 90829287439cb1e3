"""DSA: DC with the same differentiable augmentation of a class's real and synthetic images.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, equation 6: DC's loss with A(S, w)
and A(T, w) in place of S and T, w drawn anew for each class and matching. The network trains on augmented images as well.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from condense.methods.dc import DC


@dataclass(frozen=True, kw_only=True, slots=True)
class DSA(DC):
    """DC's loops; the augmentation is the recipe's."""

    name: ClassVar[str] = "dsa"

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """DC's, with the augmentation, and starting from real images as in the authors' command."""
        return {**DC.published(dataset_name, shape, ipc), "init": "random", "augment": "dsa"}
