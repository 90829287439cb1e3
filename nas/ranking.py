"""From finished trainings to a ranking of the architectures, and how far it can be trusted.

A ranking has a column for each score. The scores of trainings are called `ARM accuracy`, `ARM
held_loss` and `ARM summed_loss`, where an arm is a proxy or several of a kind; the baselines
`parameters`, `flops`, and so on. In all columns higher is better: losses are negated.

`free` is the rank average of the best-known baselines. Any columns can be averaged by rank, half
and half if there are two: `random summed_loss + free`.

Shapes: n architectures, S seeds, K proxies of an arm.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from condense.errors import UserError, unknown
from condense.study.trials import Trials
from condense.writing import write_json, write_text
from nas.agreement import Agreement, agreement, difference
from nas.columns import Column, Floats, Measured, column_of, rank_average
from nas.free import BASELINES
from nas.plan import HELD_OUT, SearchPlan
from nas.proxies import FREE
from nas.spaces import space
from nas.training import SCORES, SearchTask

Scores = dict[str, float]
"""The scores of a training by name."""

FREE_PARTS = ("parameters", "synflow", "naswot")
"""The baselines that `free` is the rank average of.

A proxy that is averaged with it has to beat it."""
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

    space: Any
    """The name of a space, or a space itself."""
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
    sets: dict[str, Floats] = field(default_factory=dict)
    """The columns of trainings on each proxy of their arm, [K, n]."""

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def order(self) -> list[int]:
        """The positions 0..n-1, the best first; failures come last, ties by index."""
        scores = np.nan_to_num(self.columns[self.by], nan=-np.inf, posinf=-np.inf)
        return np.argsort(-scores, kind="stable").tolist()

    @property
    def scores(self) -> list[str]:
        """The scores of trainings that there are, such as `summed_loss`."""
        return [s for s in SCORES if all(f"{arm} {s}" in self.columns for arm in self.trainings)]

    def column(self, name: str) -> Column:
        """A column, with the scores on each proxy of its arm."""
        parts = name.split(" + ")
        if not any(part in self.sets for part in parts):
            return column_of(self.columns[name])
        return Column(
            tuple(
                Measured(self.sets[part], part.rpartition(" ")[0])
                if part in self.sets
                else Measured(self.columns[part][None])
                for part in parts
            )
        )

    @cached_property
    def repeats(self) -> dict[str, str]:
        """The baselines that rank exactly as an earlier one does, with the name of that one.

        Those that have no value for some architecture are told by `missing`.
        """
        free = [name for name in BASELINES if name in self.columns and name not in self.missing]
        ranks = {name: rank_average(self.columns[name]) for name in free}
        return {
            later: earlier
            for earlier, later in reversed([*combinations(ranks, 2)])
            if len(self) > 1 and np.array_equal(ranks[earlier], ranks[later])
        }

    @property
    def missing(self) -> dict[str, int]:
        """The baselines that have no value for some architectures, and for how many."""
        counts = {
            name: int((~np.isfinite(self.columns[name])).sum())
            for name in BASELINES
            if name in self.columns
        }
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """How far each column agrees with the truth.

        Empty without a reference, or with fewer than two architectures.
        """
        if self.truth is None or len(self) < 2:
            return {}
        return {name: agreement(self.column(name), self.truth) for name in self.columns}

    @property
    def shown(self) -> dict[str, Agreement]:
        """The agreements for tables: without the baselines that repeat another."""
        return {name: a for name, a in self.agreements.items() if name not in self.repeats}

    @cached_property
    def gains(self) -> dict[str, Agreement]:
        """How much better each column agrees with the truth than the number of parameters does."""
        if YARDSTICK not in self.columns:
            return {}
        others = [name for name in self.shown if name != YARDSTICK]
        return {name: self._difference(name, YARDSTICK) for name in others}

    @cached_property
    def contrasts(self) -> dict[str, Agreement]:
        """The differences in agreement between arms, and what an arm adds to the baselines.

        Two arms are compared score by score, alone and each averaged with `free`. An average with
        `free` is also compared with `free` alone.
        """
        if not self.agreements:
            return {}
        pairs = [
            (f"{b} {score}{more}", f"{a} {score}{more}")
            for a, b in combinations(self.trainings, 2)
            for more in ("", f" + {FREE}")
            for score in self.scores
        ]
        columns = column_names(self.trainings, self.scores, free=False)
        pairs += [(f"{column} + {FREE}", FREE) for column in columns]
        return {f"{a} minus {b}": self._difference(a, b) for a, b in pairs}

    def _difference(self, first: str, second: str) -> Agreement:
        assert self.truth is not None
        return difference(self.column(first), self.column(second), self.truth)

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
            "space": space(self.space).NAME,
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
        write_text(folder / "ranking.csv", text.getvalue())


def collect(plan: SearchPlan, store: Trials, truth: Floats | None) -> Ranking:
    """The ranking by the trainings in the store so far.

    A score on a proxy is the mean over the seeds whose training did not diverge, and a score on an
    arm the mean over its proxies. Candidates that an arm has not been trained with yet are left
    out. `truth` holds the test accuracies of all candidates, or is None.

    >>> from condense.data.catalogue import Source
    >>> from nas.regime import Regime
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10, by="random accuracy", arms={"random": ("random",)},
    ...     recipes={"free": ("free", "baselines"), "random": ("4567", "epochs=20")},
    ... )
    >>> len(collect(plan, Trials(":memory:"), truth=None))
    0
    """
    keys, indices = plan.keys, plan.indices
    stored = {key: trial.result["scores"] for key, trial in store.find(keys.kind).items()}

    def scores(proxy: str, seed: int) -> list[Scores | None]:
        return [stored.get(keys.of(SearchTask(seed, index, proxy))) for index in indices]

    trained = {
        arm: [[scores(proxy, seed) for seed in seeds] for proxy, seeds in plan.runs(arm).items()]
        for arm in plan.arms
    }
    free = scores(FREE, 0)
    finished = {
        arm: np.sum([[s is not None for s in run] for runs in proxies for run in runs], axis=0)
        for arm, proxies in trained.items()
    }
    started = [count > 0 for count in finished.values()] + [np.array([s is not None for s in free])]
    keep = np.flatnonzero(np.all(started, axis=0))
    sets = {
        f"{arm} {score}": sign * np.stack([_mean(_table(runs, score)) for runs in proxies])[:, keep]
        for arm, proxies in trained.items()
        for score, sign in SCORES.items()
        if plan.held_out or score == "summed_loss"
    }
    columns = {name: Measured(values).mean() for name, values in sets.items()}
    columns |= {name: _table([free], name)[0][keep] for name in BASELINES}
    columns[FREE] = rank_average(*(columns[name] for name in FREE_PARTS))
    averages = [f"{name} + {FREE}" for name in sets]
    if plan.by not in columns and plan.by not in averages:
        averages.append(plan.by)
    for name in averages:
        parts = tuple(Measured(columns[part][None]) for part in name.split(" + "))
        columns[name] = Column(parts).values()
    return Ranking(
        space=keys.space,
        indices=tuple(indices[int(at)] for at in keep),
        columns=columns,
        diverged={
            arm: np.nansum([_table(runs, "diverged") for runs in proxies], axis=(0, 1))[keep]
            for arm, proxies in trained.items()
        },
        trainings={arm: count[keep].astype(float) for arm, count in finished.items()},
        by=plan.by,
        truth=None if truth is None else truth[keep],
        sets=sets,
    )


def column_names(
    arms: Iterable[str], scores: Iterable[str] = tuple(SCORES), *, free: bool = True
) -> list[str]:
    """The columns of a search with these arms and scores, with the `free` ones.

    >>> column_names(["random"])[:4]
    ['random accuracy', 'random held_loss', 'random summed_loss', 'parameters']
    """
    trained = [f"{arm} {score}" for arm, score in product(arms, scores)]
    return trained + ([*BASELINES, FREE] if free else [])


def check_column(by: str, arms: Iterable[str], held_out: int) -> None:
    """Raise a `UserError` unless `by` is a column, or several that are joined by ` + `.

    >>> check_column("random summed_loss + free", ["random"], held_out=0)
    >>> check_column("random accuracy", ["random"], held_out=0)
    Traceback (most recent call last):
    condense.errors.UserError: `random accuracy` needs images to score by: --held-out 1000
    """
    known = column_names(arms)
    parts = by.split(" + ")
    for part in parts:
        if part not in known:
            raise unknown("score to rank by:", part, known)
        if not held_out and needs_held_out(part):
            raise UserError(f"`{part}` needs images to score by: --held-out {HELD_OUT}")
    if len(set(parts)) < len(parts):
        raise UserError(f"--by `{by}` names a column twice: name each once")


def needs_held_out(by: str) -> bool:
    """Whether a column, or one that it is the average of, is measured on held-out images.

    >>> needs_held_out("random summed_loss + free"), needs_held_out("random accuracy")
    (False, True)
    """
    return any(part.endswith((" accuracy", " held_loss")) for part in by.split(" + "))


def _table(runs: Sequence[Sequence[Scores | None]], score: str) -> Floats:
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
