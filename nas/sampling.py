"""Which architectures of a space are ranked: their number, where they are drawn, or a list.

100             drawn from the whole space; 0 for all of it
top20:100       drawn from the best 20 % of a reference
stratified:100  one from each hundredth of a reference, ordered by its accuracies

All are drawn by a seed, and in the order of the space's own `sample`: a larger sample contains a
smaller one, but for stratified ones.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condense.errors import UserError, advice, unknown
from condense.randomness import generator
from condense.reading import read_text
from nas.reference import Reference
from nas.spaces import space

Only = Mapping[str, Sequence[str]]
"""The values that each factor of a space may have, as text."""
Sample = int | str | Sequence[int | str] | None


def candidates(
    space_name: Any,
    sample: Sample,
    seed: int,
    *,
    only: Only | None = None,
    reference: Reference | None = None,
    truth: str = "",
) -> tuple[int, ...]:
    """The indices of the architectures to rank, in ascending order.

    Parameters
    ----------
    sample: see the head of this module; None for the space's usual number. Or a list of indices or
        names, which is taken as it is.
    seed: draws them.
    only: restricts the factors of the space, such as `{"depth": ["1", "2"]}`.
    reference: the table whose column `truth` says which architectures are the best.

    Raises `UserError` for a number, an index or a factor that the space does not have.

    >>> candidates("nasbench201", [9, 3, 9], seed=0)
    (3, 9)
    >>> len(candidates("convnet720", 10, seed=0, only={"depth": ["1"], "pool": ["none"]}))
    10
    """
    module = space(space_name)
    if isinstance(sample, Sequence) and not isinstance(sample, str):
        return tuple(sorted({module.architecture(key).index for key in sample}))
    where, count = _read(sample)
    fits = _fitting(module, only or {})
    if where:
        ranked = _ranked(where, fits, reference, truth)
        if where == "stratified":
            return _one_of_each(ranked, count, seed)
        fits = set(ranked[: max(1, round(int(where[3:]) / 100 * len(ranked)))])
    if count is None:
        count = min(module.SAMPLE, len(fits))
    if not only and not where:
        return tuple(module.sample(count or None, seed))
    return drawn(module, count or len(fits), seed, fits)


def read_indices(path: str | Path) -> list[str]:
    """The indices or names in a text file, one a line; empty lines and `#` comments are left out.

    Raises `UserError` for a file that cannot be read or holds none.

    >>> read_indices("an/empty/folder/indices.txt")
    Traceback (most recent call last):
    condense.errors.UserError: an/empty/folder/indices.txt does not exist; write one index ...
    """
    with advice("write one index or name a line"):
        lines = read_text(path).splitlines()
    found = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not found:
        raise UserError(f"{path} names no architecture: write one index or name a line")
    return found


def _read(sample: int | str | None) -> tuple[str, int | None]:
    """Where architectures are drawn, empty for the whole space, and their number."""
    if sample is None:
        return "", None
    parts = re.fullmatch(r"(?:(top[1-9]\d?|stratified):)?(\d+)", str(sample))
    if not parts:
        raise UserError(
            f"--sample {sample}: it must be a number, top20:NUMBER (of the best 20 %) "
            "or stratified:NUMBER"
        )
    where, count = parts[1] or "", int(parts[2])
    if where and not count:
        raise UserError(f"--sample {sample}: the number must be 1 or more")
    return where, count


def _fitting(module: Any, only: Only) -> Collection[int]:
    """The indices of the architectures whose factors have the values of `only`."""
    if not only:
        return range(module.SIZE)
    grid = getattr(module, "GRID", {})
    for factor, values in only.items():
        if factor not in grid:
            known = ", ".join(grid) or "none"
            raise UserError(f"{module.NAME} has no factor `{factor}` to restrict: it has {known}")
        for value in values:
            if value not in map(str, grid[factor]):
                raise unknown(f"{factor} of {module.NAME}:", value, map(str, grid[factor]))
    return [
        index
        for index in range(module.SIZE)
        if all(str(getattr(module.architecture(index), f)) in only[f] for f in only)
    ]


def _ranked(
    where: str, fits: Collection[int], reference: Reference | None, truth: str
) -> list[int]:
    """The fitting architectures that the reference knows, from the best to the worst."""
    if reference is None:
        raise UserError(f"--sample {where}:... needs a --reference with `{truth}`")
    fitting = set(fits)
    known = [index for index in reference.known(truth) if index in fitting]
    values = reference.values(truth, known)
    return [known[at] for at in np.argsort(-values, kind="stable")]


def drawn(module: Any, count: int, seed: int, fits: Collection[int]) -> tuple[int, ...]:
    """The first `count` of those that fit, in the order in which the module of a space draws.

    Raises `UserError` if fewer fit.

    >>> from nas.spaces import convnet720
    >>> drawn(convnet720, 3, 0, range(10, 20))
    (10, 12, 19)
    """
    fitting = set(fits)
    if count > len(fitting):
        raise UserError(
            f"cannot sample {count} architectures: {len(fitting)} of {module.NAME} are left"
        )

    def among(size: int) -> list[int]:
        return [index for index in module.sample(size, seed) if index in fitting]

    sizes = range(1, module.SIZE + 1)
    return tuple(among(sizes[bisect_left(sizes, count, key=lambda size: len(among(size)))]))


def _one_of_each(ranked: Sequence[int], count: int | None, seed: int) -> tuple[int, ...]:
    """One of each of `count` equal parts of the ranked architectures."""
    if not count or count > len(ranked):
        raise UserError(f"cannot sample {count} architectures: the reference has {len(ranked)}")
    draws = generator(seed, "nas/parts")
    parts = np.array_split(np.array(ranked), count)
    chosen = [part[int(torch.randint(len(part), (), generator=draws))] for part in parts]
    return tuple(sorted(map(int, chosen)))
