"""From finished trainings to a ranking, and to what it is worth: scores by architecture, beside what costs nothing.

Columns are named `PROXY accuracy`, `PROXY held_loss`, `PROXY summed_loss`, by the baselines (`parameters`, `flops`, ...), and,
for rank averages, by their parts (`PROXY accuracy + parameters`). In all of them higher is better: losses are negated.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condense.files import write_bytes, write_json
from condense.study.trials import Trials
from nas.agreement import Agreement, agreement, difference
from nas.free import BASELINES, rank_average
from nas.proxies import FREE
from nas.spaces import space
from nas.training import SCORES, Keys, SearchTask

Floats = NDArray[np.float64]

FREE_AVERAGE = "parameters + synflow + naswot"
"""The rank average of baselines: what a proxy has to beat where it is itself averaged with more than one of them."""
YARDSTICK = "parameters"
"""What every column is compared with, in pairs."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of the `n` architectures that every proxy has trained at least once."""

    space: str
    indices: tuple[int, ...]
    columns: dict[str, Floats]
    """[n] each, higher is better; NaN where every training diverged."""
    diverged: dict[str, Floats]
    """By proxy, how many trainings of each architecture diverged, [n]."""
    trainings: dict[str, Floats]
    """By proxy, how many there are, [n]."""
    by: str
    """The column that ranks."""
    truth: Floats | None = None
    """Test accuracies in [0, 1], where there is a reference."""

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def order(self) -> list[int]:
        """Positions, the best first by `by`; failures last, ties by index."""
        scores = np.nan_to_num(self.columns[self.by], nan=-np.inf, posinf=-np.inf)
        return np.argsort(-scores, kind="stable").tolist()

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """How far each column agrees with the truth; nothing without a reference, or with fewer than two architectures."""
        if self.truth is None or len(self) < 2:
            return {}
        return {name: agreement(scores, self.truth) for name, scores in self.columns.items()}

    @cached_property
    def gains(self) -> dict[str, Agreement]:
        """How much better each column agrees than the parameter count does, paired."""
        if self.truth is None or not self.agreements or YARDSTICK not in self.columns:
            return {}
        yardstick = self.columns[YARDSTICK]
        others = {name: scores for name, scores in self.columns.items() if name != YARDSTICK}
        return {name: difference(scores, yardstick, self.truth) for name, scores in others.items()}

    @cached_property
    def contrasts(self) -> dict[str, Agreement]:
        """Paired differences that decide: between proxies, score by score, and what a proxy adds to the free average."""
        if self.truth is None or not self.agreements:
            return {}
        proxies = list(self.trainings)
        pairs = [
            (f"{a} {score}", f"{b} {score}")
            for b, a in combinations(proxies, 2)
            for score in SCORES
        ]
        pairs += [
            (f"{proxy} {score} + {FREE_AVERAGE}", FREE_AVERAGE)
            for proxy in proxies
            for score in SCORES
        ]
        return {
            f"{a} minus {b}": difference(self.columns[a], self.columns[b], self.truth)
            for a, b in pairs
        }

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, the best first; None for what is not finite."""
        module, rows = space(self.space), []
        for rank, at in enumerate(map(int, self.order), start=1):
            index = self.indices[at]
            row: dict[str, Any] = {
                "rank": rank,
                "index": index,
                "arch": module.architecture(index).name,
            }
            row |= {name: _plain(scores[at]) for name, scores in self.columns.items()}
            row |= {f"{name} diverged": int(count[at]) for name, count in self.diverged.items()}
            if self.truth is not None:
                row["truth"] = _plain(self.truth[at])
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """The rows, and how far each column can be trusted."""
        return {
            "space": self.space,
            "ranked_by": self.by,
            "architectures": self.rows(),
            "agreement": {name: found.to_json() for name, found in self.agreements.items()},
            f"difference_from_{YARDSTICK}": {
                name: found.to_json() for name, found in self.gains.items()
            },
            "differences": {name: found.to_json() for name, found in self.contrasts.items()},
        }

    def save(self, folder: Path) -> None:
        """Write `ranking.csv` and `ranking.json`."""
        write_json(folder / "ranking.json", self.to_json())
        text, rows = io.StringIO(), self.rows()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_bytes(folder / "ranking.csv", text.getvalue().encode())


def collect(
    store: Trials, keys: Keys, indices: Sequence[int], seeds: int, by: str, truth: Floats | None
) -> Ranking:
    """The ranking that the trainings in `store` make: means over the seeds that did not diverge.

    truth: of all `indices`, or None.
    """
    stored = {key: trial.result["scores"] for key, trial in store.find(keys.kind).items()}

    def scores(proxy: str, seed: int) -> list[dict[str, float] | None]:
        return [stored.get(keys.of(SearchTask(seed, index, proxy))) for index in indices]

    trained = {proxy: [scores(proxy, seed) for seed in range(seeds)] for proxy in keys.proxies}
    free = scores(FREE, 0)
    started = {
        proxy: np.array([[s is not None for s in found] for found in runs])
        for proxy, runs in trained.items()
    }
    keep = np.flatnonzero(
        np.all([s.any(axis=0) for s in started.values()], axis=0) & [s is not None for s in free]
    )

    columns: dict[str, Floats] = {}
    diverged: dict[str, Floats] = {}
    for proxy, runs in trained.items():
        diverged[proxy] = np.nansum(_table(runs, "diverged"), axis=0)[keep]
        for score, sign in SCORES.items():
            columns[f"{proxy} {score}"] = sign * _mean(_table(runs, score))[keep]
    columns |= {name: _table([free], name)[0][keep] for name in BASELINES}
    columns |= _averages(columns, keys.proxies)
    return Ranking(
        space=keys.space,
        indices=tuple(indices[int(at)] for at in keep),
        columns=columns,
        diverged=diverged,
        trainings={proxy: s.sum(axis=0)[keep].astype(float) for proxy, s in started.items()},
        by=by,
        truth=None if truth is None else truth[keep],
    )


def column_names(proxies: Iterable[str]) -> list[str]:
    """The columns of a search's own scores: what it can be ranked by."""
    return [f"{proxy} {score}" for proxy in proxies for score in SCORES] + list(BASELINES)


def _averages(columns: dict[str, Floats], proxies: Iterable[str]) -> dict[str, Floats]:
    """Rank averages of each proxy's scores with the parameter count and with the best-known baselines; and of those alone."""
    free = FREE_AVERAGE.split(" + ")
    combined = [free] + [
        [f"{proxy} {score}", *others]
        for proxy in proxies
        for score in SCORES
        for others in (["parameters"], free)
    ]
    return {
        " + ".join(parts): rank_average(*(columns[part] for part in parts)) for parts in combined
    }


def _table(runs: Sequence[Sequence[dict[str, float] | None]], score: str) -> Floats:
    """A score by seed and architecture, [S, n]; NaN where there is no training, or a diverged one."""
    return np.array(
        [[nan if scores is None else scores[score] for scores in found] for found in runs],
        dtype=np.float64,
    )


def _mean(table: Floats) -> Floats:
    """The mean [n] of what is not NaN in [S, n]; NaN where nothing is."""
    counts = np.isfinite(table).sum(axis=0)
    return np.divide(
        np.where(np.isfinite(table), table, 0).sum(axis=0),
        counts,
        out=np.full(counts.shape, nan),
        where=counts > 0,
    )


def _plain(value: float) -> float | None:
    return float(value) if isfinite(value) else None
