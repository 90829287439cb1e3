"""DSA: DC with the same differentiable augmentation of a class's real and synthetic images.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, equation
6. The loss is that of DC, with A(S, w) and A(T, w) in place of S and T, where w is drawn again for
each class and each matching. The network is also trained on augmented images.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from condense.methods.dc import DC


@dataclass(frozen=True, kw_only=True, slots=True)
class DSA(DC):
    """The loops of DC, with the augmentation of the recipe.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=DSA(), network="convnet-d2-w8", real_batch=8, steps=1)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "dsa"

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings of DC, but with augmentation and real starting images.

        These are the settings of the authors' command.
        """
        return {**DC.published(dataset_name, shape, ipc), "init": "random", "augment": "dsa"}
