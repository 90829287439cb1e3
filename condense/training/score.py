"""The accuracy of several networks, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracies, in [0, 1], of networks of one architecture."""

    accuracies: tuple[float, ...]
    """Of every network, those of the first set first."""
    sets: int = 1
    """Condensed sets they were trained on, with equally many networks each."""

    @property
    def per_set(self) -> tuple[tuple[float, ...], ...]:
        """The accuracies of each set's networks."""
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
        """The standard deviation over all networks, with N - 1; 0 for a single one."""
        return _std(self.accuracies)

    @property
    def ci95(self) -> tuple[float, float]:
        """A 95 % interval for the mean, by Student's t, within [0, 1].

        With several sets it is taken over the means of the sets: the networks of one set share its luck, and treating
        them as independent would make the interval too short. With one set it is over its networks, and says
        nothing about another set from another seed. From a single value nothing follows: (0, 1).
        """
        from scipy.stats import t

        values = self.accuracies if self.sets == 1 else tuple(fmean(part) for part in self.per_set)
        if len(values) == 1:
            return 0.0, 1.0
        half = float(t.ppf(0.975, len(values) - 1)) * _std(values) / len(values) ** 0.5
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: accuracies, sets, mean, std, ci95."""
        return {
            "accuracies": list(self.accuracies),
            "sets": self.sets,
            "mean": self.mean,
            "std": self.std,
            "ci95": list(self.ci95),
        }


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


class Measured(Protocol):
    """What is shown of an accuracy; `Score` has it. All in [0, 1]."""

    @property
    def accuracies(self) -> Sequence[float]: ...
    @property
    def mean(self) -> float: ...
    @property
    def ci95(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Statistic:
    """A number measured in several orders, each with as many repeats."""

    values: tuple[tuple[float, ...], ...]
    """By order, then by repeat."""

    @property
    def mean(self) -> float:
        """Over all."""
        return fmean(value for repeats in self.values for value in repeats)

    @property
    def std(self) -> float:
        """Over all, with N - 1; 0 for a single value."""
        values = [value for repeats in self.values for value in repeats]
        return stdev(values) if len(values) > 1 else 0.0

    @property
    def ci95(self) -> tuple[float, float] | None:
        """A 95 % interval for the mean by Student's t; None where there is but one value."""
        from scipy.stats import t

        values = (
            [fmean(repeats) for repeats in self.values]
            if len(self.values) > 1
            else list(self.values[0])
        )
        if len(values) < 2:
            return None
        half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
        return fmean(values) - half, fmean(values) + half

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "mean": self.mean,
            "std": self.std,
            "ci95": self.ci95,
            "values": [list(repeats) for repeats in self.values],
        }

    def __str__(self) -> str:
        half = (
            "" if self.ci95 is None else f"\u00a0±\u00a0{100 * (self.ci95[1] - self.mean):.1f}"
        )  # never broken
        return f"{100 * self.mean:.1f}{half}"
