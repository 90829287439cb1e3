"""The scores of candidates: measured on one set or on several, alone or averaged by rank.

Sets of one kind, such as five draws of random images, form an *arm*. A score on an arm is the mean
over its sets. What is measured on an arm depends on which sets were drawn, so a column keeps the
scores on each of them.

Shapes: n architectures, K sets of an arm.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """A score on each of the sets of an arm.

    >>> Measured(np.array([[1.0, 2.0], [3.0, np.nan]]), "random").mean()
    array([2., 2.])
    """

    values: Floats
    """[K, n]; higher is better, and NaN where every training diverged."""
    arm: str = ""
    """The arm that the sets belong to. Empty for a score that no set is needed for."""

    def mean(self, weights: Floats | None = None) -> Floats:
        """The means [n] over the sets, with `weights` [K]; NaN where every set has NaN."""
        if len(self.values) == 1:  # as it is, with infinities
            return self.values[0].copy()
        known = np.isfinite(self.values)
        weights = np.ones(len(self.values)) if weights is None else weights
        counts = weights @ known
        total = weights @ np.where(known, self.values, 0)
        return np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)


@dataclass(frozen=True, eq=False)
class Column:
    """A score of n architectures: one that is measured, or the mean rank of several.

    >>> first, second = Measured(np.array([[0.1, 0.3, 0.2]])), Measured(np.array([[10, 20, 30.0]]))
    >>> Column((first,)).values(), Column((first, second)).values()
    (array([0.1, 0.3, 0.2]), array([1. , 2.5, 2.5]))
    """

    parts: tuple[Measured, ...]

    @property
    def arms(self) -> dict[str, int]:
        """The numbers of sets of the arms that have several, by arm."""
        return {part.arm: len(part.values) for part in self.parts if len(part.values) > 1}

    def values(self, weights: Mapping[str, Floats] | None = None) -> Floats:
        """The scores [n], with the `weights` [K] of the sets of each arm; alike if not given.

        Where a part is NaN, the trainings diverged, and so is the mean rank.
        """
        means = [part.mean((weights or {}).get(part.arm)) for part in self.parts]
        if len(means) == 1:
            return means[0]
        return np.where(np.isnan(means).any(axis=0), np.nan, rank_average(*means))


def column_of(scores: "ArrayLike | Column") -> Column:
    """A column of plain scores [n]; a column stays what it is.

    >>> column_of([0.5, 0.25]).values()
    array([0.5 , 0.25])
    """
    if isinstance(scores, Column):
        return scores
    return Column((Measured(np.asarray(scores, dtype=np.float64)[None]),))


def clean(scores: ArrayLike) -> tuple[Floats, int]:
    """`scores` as float64 with failures (NaN, +inf) set to -inf, and the number of failures.

    >>> clean([0.5, float("nan")])
    (array([ 0.5, -inf]), 1)
    """
    scores = np.array(scores, dtype=np.float64)
    failed = np.isnan(scores) | (scores == np.inf)
    scores[failed] = -np.inf
    return scores, int(failed.sum())


def rank_average(*scores: ArrayLike) -> Floats:
    """The mean rank [n] of several lists of scores [n], where higher is better.

    Ties share the average of their ranks. Failures (NaN, +inf) get the lowest rank.

    >>> rank_average([0.1, 0.3, 0.2], [10, 20, 30])
    array([1. , 2.5, 2.5])
    """
    from scipy.stats import rankdata

    return np.mean([rankdata(clean(s)[0]) for s in scores], axis=0)
