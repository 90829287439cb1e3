"""The accuracy of several networks, with a confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracies, in [0, 1], of networks of one architecture.

    >>> score = Score((0.50, 0.52, 0.60, 0.62), sets=2)
    >>> score.mean, score.per_set
    (0.56, ((0.5, 0.52), (0.6, 0.62)))
    >>> Score((0.50, 0.52, 0.51)).ci95
    (0.4851..., 0.5348...)
    """

    accuracies: tuple[float, ...]
    """The accuracy of every network, ordered by set."""
    sets: int = 1
    """The number of condensed sets, on each of which as many networks were trained."""

    @property
    def per_set(self) -> tuple[tuple[float, ...], ...]:
        """The accuracies of the networks, grouped by set."""
        repeats = len(self.accuracies) // self.sets
        return tuple(
            self.accuracies[first : first + repeats]
            for first in range(0, len(self.accuracies), repeats)
        )

    @property
    def mean(self) -> float:
        """The mean over all networks."""
        return fmean(self.accuracies)

    @property
    def std(self) -> float:
        """The sample standard deviation over all networks; 0 for a single one."""
        return _std(self.accuracies)

    @property
    def ci95(self) -> tuple[float, float]:
        """A 95 % confidence interval for the mean, by Student's t, within [0, 1].

        With several sets it is computed from the means of the sets. The networks of one set have
        the quality of that set in common; if they were treated as independent, the interval would
        be too short. With one set it is computed from its networks, and says nothing about another
        set from another seed. A single value gives the interval (0, 1).
        """
        if len(self._values) == 1:
            return 0.0, 1.0
        half = _half_interval(self._values)
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def _values(self) -> tuple[float, ...]:
        """What the interval is over: the means of the sets, or the networks of a single set."""
        return self.accuracies if self.sets == 1 else tuple(fmean(part) for part in self.per_set)

    @property
    def interval(self) -> tuple[float, float] | None:
        """`ci95` as it is shown; None where a single value or equal ones say nothing of a spread.

        >>> Score((0.5, 0.5)).interval, Score((0.5,)).interval
        (None, None)
        """
        return self.ci95 if len(set(self._values)) > 1 else None

    def __str__(self) -> str:
        """Mean and interval in percent; the mean alone where there is no interval to show.

        >>> str(Score((0.50, 0.52, 0.51))), str(Score((0.5,)))
        ('51.0 % (48.5 to 53.5)', '50.0 %')
        """
        mean = f"{100 * self.mean:.1f} %"
        if self.interval is None:
            return mean
        low, high = (100 * end for end in self.interval)
        return f"{mean} ({low:.1f} to {high:.1f})"

    def to_json(self) -> dict[str, Any]:
        """The score as plain JSON: accuracies, sets, mean, std, ci95."""
        values = {"accuracies": list(self.accuracies), "sets": self.sets}
        return values | {"mean": self.mean, "std": self.std, "ci95": list(self.ci95)}


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval for the mean of two or more values, by Student's t."""
    return student(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5


def student(share: float, freedom: float) -> float:
    """The value below which Student's t is with the probability `share`.

    >>> round(student(0.975, 4), 4)
    2.7764
    """
    from scipy.special import stdtrit  # `scipy.stats` calls it, too, but takes a second to import

    return float(stdtrit(freedom, share))


class Measured(Protocol):
    """What is needed to show an accuracy, as `Score` has it. All numbers are in [0, 1].

    >>> measured: Measured = Score((0.5, 0.7))
    >>> measured.mean
    0.6
    """

    @property
    def accuracies(self) -> Sequence[float]: ...
    @property
    def mean(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Statistic:
    """A number that is measured in several orders of the classes, repeatedly in each.

    >>> statistic = Statistic(((0.50, 0.54), (0.56, 0.60)))
    >>> statistic.mean
    0.55
    >>> str(statistic).split()
    ['55.0', '±', '38.1']
    """

    values: tuple[tuple[float, ...], ...]
    """The values by order, then by repeat; each order has the same number of repeats."""

    @property
    def mean(self) -> float:
        """The mean over all values."""
        return fmean(value for repeats in self.values for value in repeats)

    @property
    def std(self) -> float:
        """The sample standard deviation over all values; 0 for a single one."""
        return _std([value for repeats in self.values for value in repeats])

    @property
    def ci95(self) -> tuple[float, float] | None:
        """A 95 % confidence interval for the mean, by Student's t; None for a single value.

        With several orders it is computed from their means.
        """
        one_order = len(self.values) == 1
        values = self.values[0] if one_order else tuple(map(fmean, self.values))
        if len(values) < 2:
            return None
        half = _half_interval(values)
        return fmean(values) - half, fmean(values) + half

    def to_json(self) -> dict[str, Any]:
        """The statistic as plain JSON: mean, std, ci95, values."""
        values = [list(repeats) for repeats in self.values]
        return {"mean": self.mean, "std": self.std, "ci95": self.ci95, "values": values}

    def __str__(self) -> str:
        # Non-breaking spaces keep the number and its interval on one line.
        half = "" if self.ci95 is None else f"\u00a0±\u00a0{100 * (self.ci95[1] - self.mean):.1f}"
        return f"{100 * self.mean:.1f}{half}"
