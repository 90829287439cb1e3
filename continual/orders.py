"""Class orders, how they are divided into steps, and the part of a dataset that a step brings."""

from collections.abc import Sequence

import numpy as np
import torch

from condense.data.images import Dataset, Images
from condense.errors import UserError


def class_order(num_classes: int, seed: int) -> tuple[int, ...]:
    """The classes 0..C-1, shuffled with NumPy's seed as the published protocols do it.

    Theirs are seeds 0 to 4.

    >>> class_order(10, seed=0)
    (2, 8, 4, 9, 1, 6, 7, 3, 0, 5)
    """
    # The legacy generator of NumPy that `numpy.random.seed` sets, without its global state.
    return tuple(np.random.RandomState(seed).permutation(num_classes).tolist())


def split(
    order: Sequence[int], steps: int, base: Sequence[int] = ()
) -> tuple[tuple[int, ...], ...]:
    """The classes of each step: as many in the first ones as `base` says, the same in the others.

    Raises `UserError` if the other steps do not divide the classes that are left for them.

    >>> split((3, 1, 0, 2), steps=2)
    ((3, 1), (0, 2))
    >>> split((3, 1, 0, 2), steps=3, base=[2])
    ((3, 1), (0,), (2,))
    >>> split((3, 1, 0, 2), steps=3)
    Traceback (most recent call last):
    condense.errors.UserError: 3 steps do not divide 4 classes: give one of 1, 2, 4
    """
    count = len(order)
    if base:
        first, *others = base
        if first == count and steps == 1:
            return (tuple(order),)
        if not 1 <= first < count or steps == 1:
            raise UserError(
                f"a step of {first} of {count} classes, and {steps - 1} after it, cannot be: "
                "`base` has the classes of no more steps than there are, and leaves the others some"
            )
        return tuple(order[:first]), *split(order[first:], steps - 1, others)
    if not 1 <= steps <= count or count % steps:
        able = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise UserError(f"{steps} steps do not divide {count} classes: give one of {able}")
    size = count // steps
    return tuple(tuple(order[first : first + size]) for first in range(0, count, size))


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The images of some classes, renumbered: `classes[i]` becomes class i.

    >>> from condense import load_dataset
    >>> of_classes(load_dataset("digits"), (7, 4)).classes
    ('7', '4')
    """
    return Dataset(
        dataset.name, _of_classes(dataset.train, classes), _of_classes(dataset.test, classes)
    )


def _of_classes(images: Images, classes: Sequence[int]) -> Images:
    renumbered = torch.full((len(images.classes),), -1)
    renumbered[torch.tensor(classes)] = torch.arange(len(classes))
    labels = renumbered[images.labels]
    kept = labels >= 0
    return Images(images.pixels[kept], labels[kept], tuple(images.classes[c] for c in classes))
