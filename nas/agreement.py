"""How far a ranking of architectures can be trusted: its agreement with the truth, with intervals.

Scores are ranked from high to low, so a loss has to be negated. Ties share the average of their
ranks, as in scipy: a reference with many equal accuracies (the 341 unconnected cells of
NAS-Bench-201 at 10 %) keeps them as ties. A score that is NaN or +inf belongs to a training that
diverged. It is counted in `failed` and ranked below all others, but never dropped.

Intervals are bootstrap percentiles over architectures. A resample is a vector of counts: how often
each architecture was drawn. Every measure is computed from these counts without sorting again, so
that thousands of resamples are cheap.

A score that is the mean over several sets would come out otherwise on other sets. To each resample
is added what it makes to draw K - 1 of the K sets with replacement, minus the mean of that: K - 1
draws vary as the mean of K sets does, and the mean is subtracted because fewer sets are noisier.

Two measures have no interval: the architecture that is ranked best decides `top1` and `regret`,
and a resample often lacks it. Nominal intervals of 95 % held the true value in 81 to 92 % of
simulated samples. `benchmarks/nas_coverage.py` repeats the simulation.

Shapes: n architectures, b resamples, K sets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from condense.errors import UserError
from condense.randomness import generator
from nas.columns import Column, Floats, clean, column_of

TOPS = {"": 1.0, "_top20": 0.2, "_top10": 0.1}
"""The part of the architectures, best by truth, that a correlation is taken over, by suffix."""
MEASURES = (
    *(f"{kind}{top}" for kind in ("spearman", "kendall") for top in TOPS),
    "top1",
    "regret",
    "precision_top10",
)
"""The names of all measures; `Agreement` explains them."""
WITHOUT_INTERVAL = {"top1", "regret"}
"""The measures whose bootstrap intervals do not hold what they promise."""
_FEWEST = 10
"""Architectures that a top must have: of fewer, a correlation says nothing."""


@dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap 95 % interval.

    NaN stands for what is undefined, as a correlation of constants is, and for an interval that is
    withheld.

    >>> Estimate(0.5, 0.2, float("nan")).to_json()
    {'value': 0.5, 'low': 0.2, 'high': None}
    """

    value: float
    low: float
    """The 2.5 percentile."""
    high: float
    """The 97.5 percentile."""

    def to_json(self) -> dict[str, float | None]:
        """The three numbers by name, with None for NaN."""
        return {name: number if isfinite(number) else None for name, number in vars(self).items()}


@dataclass(frozen=True)
class Agreement:
    """How far scores agree with the truth.

    If it comes from `difference`, each estimate says how much better one score agrees than another.
    The measures are:

    - `spearman` and `kendall` (tau-b): rank correlations over all architectures; with the suffix
      `_top20` or `_top10`, over the best 20 % or 10 % by truth.
    - `top1`: the truth of the architecture that is ranked best.
    - `regret`: the best truth minus `top1`.
    - `precision_top10`: the share of the true best 10 % among the 10 % that are ranked best.

    `top1` and `regret` have no interval. A correlation in a top of fewer than 10 architectures is
    NaN. For tied scores, the last three are expected values under random tie-breaking. `top1` and
    `regret` have the unit of the truth.

    >>> result = agreement([0.3, 0.5, 0.4], truth=[0.6, 0.9, 0.8])
    >>> result.architectures, result["top1"].value
    (3, 0.9)
    """

    architectures: int
    failed: int
    """Architectures whose score is NaN or +inf."""
    resamples: int
    measures: dict[str, Estimate]
    """The estimates of `MEASURES`, by name."""

    def __getitem__(self, measure: str) -> Estimate:
        return self.measures[measure]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers, for `json.dump`."""
        counts = {name: vars(self)[name] for name in ("architectures", "failed", "resamples")}
        return counts | {name: estimate.to_json() for name, estimate in self.measures.items()}


def agreement(
    scores: ArrayLike | Column, truth: ArrayLike, *, seed: int = 0, resamples: int = 2000
) -> Agreement:
    """Every measure of `scores` [n] against `truth` [n]; higher is better in both.

    The scores of a `Column` may be measured on several sets; the intervals then cover these too.
    Raises `UserError` if they have different lengths or fewer than two values, or if a value of the
    truth is missing.

    >>> round(agreement([1, 2, 3, 4], truth=[0.1, 0.4, 0.2, 0.8])["spearman"].value, 4)
    0.8
    """
    return _agreement([scores], truth, seed, resamples)


def difference(
    first: ArrayLike | Column,
    second: ArrayLike | Column,
    truth: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Agreement:
    """Every measure of `first` [n] minus that of `second` [n], both measured on the same resamples.

    If an interval excludes 0, the two scores really differ. `failed` counts the failures of
    `first`. Raises `UserError` as `agreement` does.

    >>> truth = [0.1, 0.4, 0.2, 0.8]
    >>> round(difference([1, 3, 2, 4], [1, 2, 3, 4], truth)["spearman"].value, 4)
    0.2
    """
    return _agreement([first, second], truth, seed, resamples)


def _agreement(
    scores: Sequence[ArrayLike | Column], truth: ArrayLike, seed: int, resamples: int
) -> Agreement:
    truth = np.asarray(truth, dtype=np.float64)
    columns = [column_of(s) for s in scores]
    cleaned = [clean(column.values()) for column in columns]
    if truth.ndim != 1 or len(truth) < 2 or any(s.shape != truth.shape for s, _ in cleaned):
        shapes = [s.shape for s, _ in cleaned]
        raise UserError(
            f"scores {shapes} and truth {truth.shape} must be lists of one length, 2 or more"
        )
    if missing := np.sum(~np.isfinite(truth)):
        raise UserError(
            f"{missing} of {len(truth)} true values are missing: "
            "rank only architectures with a reference"
        )

    pairs = [_Pair(s, truth) for s, _ in cleaned]

    def measure(counts: Floats) -> Floats:
        first, *others = [pair.measure(counts) for pair in pairs]
        return first - others[0] if others else first

    value = measure(np.ones((1, len(truth))))[0]
    sampled = np.concatenate(
        [measure(counts) for counts in _resamples(len(truth), seed, resamples)]
    )
    sampled = sampled + _shifts(columns, truth, seed, resamples)
    if len(columns) == 1:
        sampled = np.clip(sampled, *_bounds())
    estimates = {name: _estimate(value[m], sampled[:, m]) for m, name in enumerate(MEASURES)}
    for name in WITHOUT_INTERVAL:
        estimates[name] = replace(estimates[name], low=np.nan, high=np.nan)
    for name in _too_few(len(truth)):
        estimates[name] = Estimate(np.nan, np.nan, np.nan)
    return Agreement(len(truth), cleaned[0][1], resamples, estimates)


def _too_few(n: int) -> list[str]:
    """The correlations in a top of fewer than `_FEWEST` of n architectures."""
    small = [top for top, part in TOPS.items() if part < 1 and _share(part, n) < _FEWEST]
    return [f"{kind}{top}" for kind in ("spearman", "kendall") for top in small]


def _bounds() -> Floats:
    """The least and the greatest value of each measure, [2, measures]."""
    most = np.array(
        [1.0 if name.startswith(("spearman", "kendall")) else np.inf for name in MEASURES]
    )
    return np.stack([-most, most])


def _shifts(columns: Sequence[Column], truth: Floats, seed: int, resamples: int) -> Floats:
    """What other sets make of the measures, [b, measures]; 0 if no arm has several sets."""
    several = {arm: sets for column in columns for arm, sets in column.arms.items()}
    draws = generator(seed, "nas/sets")
    weights = {arm: _weights(sets, resamples, draws) for arm, sets in sorted(several.items())}
    total = np.zeros((resamples, len(MEASURES)))
    for sign, column in zip((1, -1), columns, strict=False):
        if not column.arms:
            continue
        own = np.concatenate([weights[arm] for arm in column.arms], axis=1)
        # Few combinations differ: each is measured once.
        _, first, which = np.unique(own, axis=0, return_index=True, return_inverse=True)
        measured = [
            _Pair(
                clean(column.values({arm: w[at] for arm, w in weights.items()}))[0], truth
            ).measure(np.ones((1, len(truth))))[0]
            for at in first
        ]
        total += sign * np.stack(measured)[which.ravel()]
    known = np.where(np.isfinite(total), total, 0.0)
    return known - known.mean(axis=0)


def _weights(sets: int, resamples: int, draws: torch.Generator) -> Floats:
    """How often each of the sets is drawn, [b, sets]: one draw fewer than there are sets."""
    drawn = torch.randint(sets, (resamples, sets - 1), generator=draws)
    return torch.nn.functional.one_hot(drawn, sets).sum(dim=1).numpy().astype(np.float64)


def _estimate(value: float, sampled: Floats) -> Estimate:
    """The 2.5 and 97.5 percentiles of the resamples in which the measure is defined."""
    defined = sampled[np.isfinite(sampled)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def _resamples(n: int, seed: int, resamples: int) -> Iterator[Floats]:
    """The counts [b, n] of n draws with replacement, in blocks that bound the memory.

    All blocks together have `resamples` rows.
    """
    draws = generator(seed, "nas/bootstrap")
    block = max(1, 2_000_000 // n)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=draws) + n * torch.arange(rows)[:, None]
        counts = np.bincount(drawn.numpy().ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


class _Groups:
    """Elements grouped by equal value, in ascending order, so that ties can be treated alike."""

    def __init__(self, values: Floats):
        self.codes = np.unique(values, return_inverse=True)[1]  # [n], the group of each element
        self.order = np.argsort(self.codes, kind="stable")
        self.starts = np.searchsorted(self.codes[self.order], np.arange(self.codes.max() + 1))

    def total(self, weights: Floats) -> Floats:
        """The sums [b, groups] of the weights [b, n] in each group."""
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)

    def ranks(self, counts: Floats) -> Floats:
        """The average ranks [b, n] of the elements, each of which is present `counts` times."""
        size = self.total(counts)
        return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, self.codes]


class _Pair:
    """One list of scores and the truth; its measures can be taken of many resamples at once."""

    def __init__(self, scores: Floats, truth: Floats):
        self.truth = truth
        self.by_score, self.by_truth = _Groups(scores), _Groups(truth)
        self.best_first = np.argsort(-truth, kind="stable")
        self.kendall = _Kendall(self.by_score.codes, self.by_truth.codes)

    def measure(self, counts: Floats) -> Floats:
        """The measures [b, measures] of resamples [b, n], in the order of `MEASURES`."""
        tops = [self._top(counts, fraction) for fraction in TOPS.values()]
        correlations = [self._spearman(top) for top in tops] + [self.kendall(top) for top in tops]
        top1 = self._top1(counts)
        regret = np.where(counts > 0, self.truth, -np.inf).max(axis=1) - top1
        return np.stack([*correlations, top1, regret, self._precision(counts, tops[-1])], axis=1)

    def _top(self, counts: Floats, fraction: float) -> Floats:
        """The counts [b, n] of the best `fraction` by truth; of ties, the lower index wins."""
        keep = _share(fraction, counts.shape[1])
        ordered = counts[:, self.best_first]
        kept = np.empty_like(counts)
        kept[:, self.best_first] = np.clip(
            keep - (np.cumsum(ordered, axis=1) - ordered), 0, ordered
        )
        return kept

    def _spearman(self, counts: Floats) -> Floats:
        """Pearson's correlation of the average ranks, [b]."""
        x, y = (groups.ranks(counts) for groups in (self.by_score, self.by_truth))
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2  # the mean rank, with or without ties
        x, y = x - middle, y - middle
        return _ratio(
            (counts * x * y).sum(1), np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
        )

    def _top1(self, counts: Floats) -> Floats:
        """The mean truth of the best-ranked group that is present, [b]."""
        size, truth = self.by_score.total(counts), self.by_score.total(counts * self.truth)
        best = size.shape[1] - 1 - np.argmax(size[:, ::-1] > 0, axis=1)
        rows = np.arange(len(counts))
        return truth[rows, best] / size[rows, best]

    def _precision(self, counts: Floats, true_top: Floats) -> Floats:
        """The expected share of the true top among equally many that are ranked best, [b]."""
        keep = _share(TOPS["_top10"], counts.shape[1])
        size = self.by_score.total(counts)
        better = size.sum(axis=1, keepdims=True) - np.cumsum(size, axis=1)
        chosen = np.clip((keep - better) / np.maximum(size, 1), 0, 1)[:, self.by_score.codes]
        return (chosen * true_top).sum(axis=1) / keep


class _Kendall:
    """Kendall's tau-b of resamples: a quadratic form of the counts in the signs of all pairs.

    For long lists these signs would need too much memory. There, scipy computes tau-b of one
    resample after the other.
    """

    LONGEST = 1500

    def __init__(self, scores: NDArray[np.intp], truth: NDArray[np.intp]):
        self.scores, self.truth = scores, truth
        if len(truth) <= self.LONGEST:
            x, y = (
                np.sign(codes[:, None] - codes[None]).astype(np.float32)
                for codes in (scores, truth)
            )
            # float32 is exact here: the sums stay far below 2**24.
            self.signs = (x * y, x * x, y * y)

    def __call__(self, counts: Floats) -> Floats:
        if len(self.truth) > self.LONGEST:
            return np.array([self._scipy(row) for row in counts])
        narrow = counts.astype(np.float32)
        agreeing, untied_x, untied_y = (
            (narrow @ signs * counts).sum(axis=1, dtype=np.float64) for signs in self.signs
        )
        return _ratio(agreeing, np.sqrt(untied_x * untied_y))

    def _scipy(self, counts: Floats) -> float:
        from scipy.stats import kendalltau

        drawn = np.repeat(np.arange(len(counts)), counts.astype(np.intp))
        # `method` only concerns the p-value, which is not used.
        result = kendalltau(self.scores[drawn], self.truth[drawn], method="asymptotic")
        return float(result.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _share(fraction: float, n: int) -> int:
    """How many of n elements are the top `fraction`; at least one."""
    return max(1, round(fraction * n))


def _ratio(over: Floats, under: Floats) -> Floats:
    """`over / under`, or NaN where `under` is zero."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)
