"""DD-Ranking's scores: what a set is worth, apart from its labels and the training on it.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation" (2025). Accuracies are
shares in [0, 1]; a score of 0 is the worst and 1 the best that there could be.

    HLR = accuracy(real) - accuracy(synthetic, hard labels)
    IOR = accuracy(synthetic) - accuracy(random real images of equal number)
    LRS = f(w * IOR - (1 - w) * HLR)
    ARS = f(g * IOR with augmentation + (1 - g) * IOR without),      f(x) = (e^x - 1/e) / (e - 1/e)

Both accuracies of IOR are by the training that belongs to the set. Without `hard`, that training
has hard labels itself, and one accuracy of the set serves both terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import e, exp, inf
from statistics import fmean, variance
from typing import Any

from condense.training.score import Score, student


@dataclass(frozen=True, slots=True)
class Robustness:
    """A score in [0, 1], with its 95 % interval.

    >>> Robustness(0.25, (0.2, 0.3)).value
    0.25
    """

    value: float
    ci95: tuple[float, float]
    """By Welch's t over the sets, or over the networks where there is one set. (0, 1) where one of
    the accuracies is known of a single set or network."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"value": self.value, "ci95": list(self.ci95)}


def label_robust_score(
    real: Score | float,
    synthetic: Score,
    random: Score,
    *,
    hard: Score | None = None,
    weight: float = 0.5,
) -> Robustness:
    """The label-robust score (LRS).

    Parameters
    ----------
    real: accuracies of networks that are trained on all real images; a number is taken as exact.
    synthetic: those of networks trained on the set as its authors do.
    random: those of networks trained in the same way on as many random real images.
    hard: those of networks trained on the set with hard labels; `synthetic` unless given.
    weight: w, the weight of the improvement over random images, in [0, 1].

    >>> synthetic, random = Score((0.70, 0.71, 0.69)), Score((0.31, 0.30, 0.29))
    >>> score = label_robust_score(0.85, synthetic, random)
    >>> round(score.value, 3), score.ci95[0] < score.value < score.ci95[1]
    (0.326, True)
    """
    parts = [(-weight, random)]
    parts += [(1.0, synthetic)] if hard is None else [(weight, synthetic), (1 - weight, hard)]
    if isinstance(real, Score):
        return _score([*parts, (weight - 1, real)])
    return _score(parts, exact=(weight - 1) * real)


def augmentation_robust_score(
    synthetic: Score, random: Score, plain: Score, plain_random: Score, *, weight: float = 0.5
) -> Robustness:
    """The augmentation-robust score (ARS).

    `synthetic` and `random` are of networks trained with augmentation, `plain` and `plain_random`
    of networks trained without; `weight` is g, that of the former, in [0, 1].

    >>> synthetic, random = Score((0.70, 0.71, 0.69)), Score((0.31, 0.30, 0.29))
    >>> plain, plain_random = Score((0.60, 0.62, 0.61)), Score((0.27, 0.26, 0.25))
    >>> round(augmentation_robust_score(synthetic, random, plain, plain_random).value, 3)
    0.463
    """
    return _score(
        [(weight, synthetic), (-weight, random), (1 - weight, plain), (weight - 1, plain_random)]
    )


def _score(parts: Sequence[tuple[float, Score]], exact: float = 0.0) -> Robustness:
    """The score of a weighted sum of mean accuracies, each measured apart, and an exact number."""
    total = exact + sum(weight * score.mean for weight, score in parts)
    half = _half_interval([(weight, _units(score)) for weight, score in parts])
    low, high = max(-1.0, total - half), min(1.0, total + half)
    return Robustness(_normalised(total), (_normalised(low), _normalised(high)))


def _half_interval(parts: Sequence[tuple[float, Sequence[float]]]) -> float:
    """Half of Welch's 95 % interval for a weighted sum of means."""
    if any(len(values) < 2 for _, values in parts):
        return inf
    variances = [weight**2 * variance(values) / len(values) for weight, values in parts]
    if not (total := sum(variances)):
        return 0.0
    sizes = [len(values) - 1 for _, values in parts]
    freedom = total**2 / sum(one**2 / size for one, size in zip(variances, sizes, strict=True))
    return student(0.975, freedom) * total**0.5


def _units(score: Score) -> Sequence[float]:
    """What an interval is over: the means of the sets, or the networks of one set."""
    return score.accuracies if score.sets == 1 else [fmean(part) for part in score.per_set]


def _normalised(total: float) -> float:
    return (exp(total) - 1 / e) / (e - 1 / e)
