"""From finished trainings to a ranking of the architectures, and how far it can be trusted.

A ranking has a column for each score. The scores of trainings are called `PROXY accuracy`, `PROXY
held_loss` and `PROXY summed_loss`; the baselines `parameters`, `flops`, and so on; rank averages
are called by their parts, such as `PROXY accuracy + parameters`. In all columns higher is better:
losses are negated.

Shapes: n architectures, S seeds.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
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
"""The rank average of the best-known baselines.

A proxy that is averaged with several baselines has to beat this."""
YARDSTICK = "parameters"
"""The column that every other column is compared with."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores of the n architectures that have been trained at least once on every proxy.

    >>> ranking = Ranking(
    ...     space="nasbench201",
    ...     indices=(5, 7, 9),
    ...     columns={"random accuracy": np.array([0.5, 0.9, 0.7])},
    ...     diverged={"random": np.zeros(3)},
    ...     trainings={"random": np.ones(3)},
    ...     by="random accuracy",
    ... )
    >>> [row["index"] for row in ranking.rows()]
    [7, 9, 5]
    """

    space: str
    indices: tuple[int, ...]
    columns: dict[str, Floats]
    """The scores, [n] for each column; higher is better, NaN if every training diverged."""
    diverged: dict[str, Floats]
    """For each proxy, how many trainings of each architecture diverged, [n]."""
    trainings: dict[str, Floats]
    """For each proxy, how many trainings of each architecture are finished, [n]."""
    by: str
    """The column to rank by."""
    truth: Floats | None = None
    """Test accuracies in [0, 1], [n], if there is a reference."""

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def order(self) -> list[int]:
        """The positions 0..n-1, the best first; failures come last, ties by index."""
        scores = np.nan_to_num(self.columns[self.by], nan=-np.inf, posinf=-np.inf)
        return np.argsort(-scores, kind="stable").tolist()

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """How far each column agrees with the truth.

        Empty without a reference, or with fewer than two architectures.
        """
        if self.truth is None or len(self) < 2:
            return {}
        return {name: agreement(scores, self.truth) for name, scores in self.columns.items()}

    @cached_property
    def gains(self) -> dict[str, Agreement]:
        """How much better each column agrees with the truth than the number of parameters does."""
        if self.truth is None or not self.agreements or YARDSTICK not in self.columns:
            return {}
        yardstick = self.columns[YARDSTICK]
        others = {name: scores for name, scores in self.columns.items() if name != YARDSTICK}
        return {name: difference(scores, yardstick, self.truth) for name, scores in others.items()}

    @cached_property
    def contrasts(self) -> dict[str, Agreement]:
        """The differences in agreement between proxies, and what a proxy adds to the baselines.

        Two proxies are compared score by score. The average of a proxy's score with the best-known
        baselines is compared with the average of these baselines alone.
        """
        if self.truth is None or not self.agreements:
            return {}
        two = product(combinations(self.trainings, 2), SCORES)
        pairs = [(f"{a} {score}", f"{b} {score}") for (b, a), score in two]
        columns = column_names(self.trainings, free=False)
        pairs += [(f"{column} + {FREE_AVERAGE}", FREE_AVERAGE) for column in columns]
        return {
            f"{a} minus {b}": difference(self.columns[a], self.columns[b], self.truth)
            for a, b in pairs
        }

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain values for each architecture, the best first.

        A number that is not finite is None.
        """
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
        """The rows, and the agreement of each column with the truth."""
        return {
            "space": self.space,
            "ranked_by": self.by,
            "architectures": self.rows(),
            "agreement": _to_json(self.agreements),
            f"difference_from_{YARDSTICK}": _to_json(self.gains),
            "differences": _to_json(self.contrasts),
        }

    def save(self, folder: Path) -> None:
        """Write `ranking.csv` and `ranking.json` into `folder`."""
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
    """The ranking by the trainings in `store`.

    Each score is the mean over the seeds whose training did not diverge.

    Parameters
    ----------
    keys: the keys of the trainings in the store; they name the proxies.
    indices: the candidates. Those that a proxy has not been trained with yet are left out.
    seeds: trainings of each candidate on each proxy.
    by: the column to rank by.
    truth: the test accuracies of all `indices`, or None.

    >>> recipes = {FREE: (FREE, "baselines"), "random": ("0123", "epochs=20")}
    >>> store, keys = Trials(":memory:"), Keys("nasbench201", recipes)
    >>> len(collect(store, keys, [5, 7], seeds=3, by="random accuracy", truth=None))
    0
    """
    stored = {key: trial.result["scores"] for key, trial in store.find(keys.kind).items()}

    def scores(proxy: str, seed: int) -> list[dict[str, float] | None]:
        return [stored.get(keys.of(SearchTask(seed, index, proxy))) for index in indices]

    trained = {proxy: [scores(proxy, seed) for seed in range(seeds)] for proxy in keys.proxies}
    free = scores(FREE, 0)
    started = {
        proxy: np.array([[s is not None for s in of_seed] for of_seed in runs])
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


def column_names(proxies: Iterable[str], *, free: bool = True) -> list[str]:
    """The columns that a search with these proxies can be ranked by, with the `free` baselines.

    >>> column_names(["random"])[:4]
    ['random accuracy', 'random held_loss', 'random summed_loss', 'parameters']
    """
    trained = [f"{proxy} {score}" for proxy in proxies for score in SCORES]
    return trained + (list(BASELINES) if free else [])


def _averages(columns: dict[str, Floats], proxies: Iterable[str]) -> dict[str, Floats]:
    """The rank averages, by their names.

    These are the average of the best-known baselines, and the averages of each score of each proxy
    with the number of parameters and with the best-known baselines.
    """
    free = FREE_AVERAGE.split(" + ")
    trained = product(column_names(proxies, free=False), (["parameters"], free))
    combined = [free, *([column, *others] for column, others in trained)]
    return {
        " + ".join(parts): rank_average(*(columns[part] for part in parts)) for parts in combined
    }


def _table(runs: Sequence[Sequence[dict[str, float] | None]], score: str) -> Floats:
    """A score by seed and architecture, [S, n]; NaN if the training is missing or diverged."""
    return np.array(
        [[nan if scores is None else scores[score] for scores in of_seed] for of_seed in runs],
        dtype=np.float64,
    )


def _mean(table: Floats) -> Floats:
    """The means [n] over the seeds of a table [S, n], without its NaNs; NaN if all are."""
    counts = np.isfinite(table).sum(axis=0)
    return np.divide(
        np.where(np.isfinite(table), table, 0).sum(axis=0),
        counts,
        out=np.full(counts.shape, nan),
        where=counts > 0,
    )


def _plain(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _to_json(agreements: dict[str, Agreement]) -> dict[str, Any]:
    return {name: result.to_json() for name, result in agreements.items()}
