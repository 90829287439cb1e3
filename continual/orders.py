"""Which classes come when: class orders, their division into steps, and the part of a dataset that a step brings."""

from collections.abc import Sequence

import numpy as np
import torch

from condense.data.images import Dataset, Images
from condense.errors import UserError


def class_order(num_classes: int, seed: int) -> tuple[int, ...]:
    """The classes 0..C-1 in the order of NumPy's seed, as the published protocols draw them (theirs are seeds 0 to 4)."""
    # Published orders come of NumPy's legacy generator; this is the one without its global state.
    return tuple(np.random.RandomState(seed).permutation(num_classes).tolist())


def split(order: Sequence[int], steps: int) -> tuple[tuple[int, ...], ...]:
    """The classes of each step, as many in each. Raises `UserError`, with what divides, where `steps` does not."""
    count = len(order)
    if not 1 <= steps <= count or count % steps:
        able = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise UserError(f"{steps} steps do not divide {count} classes: give one of {able}")
    size = count // steps
    return tuple(tuple(order[first : first + size]) for first in range(0, count, size))


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The images of some classes, renumbered: class `classes[i]` is class i."""
    return Dataset(
        dataset.name, _of_classes(dataset.train, classes), _of_classes(dataset.test, classes)
    )


def _of_classes(images: Images, classes: Sequence[int]) -> Images:
    renumbered = torch.full((len(images.classes),), -1)
    renumbered[torch.tensor(classes)] = torch.arange(len(classes))
    labels = renumbered[images.labels]
    kept = labels >= 0
    return Images(images.pixels[kept], labels[kept], tuple(images.classes[c] for c in classes))
