"""Indices of the architectures of a space: those that there are, and samples of them."""

from collections.abc import Callable, Sequence

import torch

from condense.errors import UserError
from condense.randomness import generator


def checked(key: int | str, name: str, size: int) -> int:
    """A key as an index of the space called `name`. Raises `UserError` unless in 0..size-1.

    >>> checked("719", "convnet720", 720)
    719
    >>> checked(720, "convnet720", 720)
    Traceback (most recent call last):
    condense.errors.UserError: no architecture 720 in convnet720: indices are 0 to 719
    """
    if not 0 <= int(key) < size:
        raise UserError(f"no architecture {key} in {name}: indices are 0 to {size - 1}")
    return int(key)


def first(count: int | None, order: Callable[[], Sequence[int]], name: str, size: int) -> list[int]:
    """The first `count` indices of an order, ascending; all indices of the space for None.

    Raises `UserError` for a number that is not in 1..size.

    >>> first(2, lambda: shuffled(5, seed=0), "five", 5) == sorted(shuffled(5, seed=0)[:2])
    True
    """
    if count is None:
        return list(range(size))
    if not 1 <= count <= size:
        raise UserError(f"cannot sample {count} architectures from {name}: ask for 1 to {size}")
    return sorted(order()[:count])


def shuffled(size: int, seed: int) -> list[int]:
    """All indices of a space of this size, in an order that depends on `seed`.

    >>> sorted(shuffled(5, seed=0))
    [0, 1, 2, 3, 4]
    """
    return torch.randperm(size, generator=generator(seed, "nas/sample")).tolist()
