"""A search within a budget of trainings, in place of a ranking of all candidates.

random     random architectures, each trained once
evolution  regularised evolution (Real et al., "Regularized Evolution for Image Classifier
           Architecture Search", AAAI 2019): the best of a few parents has one part changed, and the
           oldest of the population dies
halving    successive halving (Jamieson and Talwalkar, AISTATS 2016): all are trained once, the
           better half again, and the better half of these once more; scores are means
optuna     what the TPE sampler of Optuna proposes; `optuna:SAMPLER` for another of `nas.sampler`
free       as many random architectures as `random` has, by what is free: no trainings

A *cost* is a number of trainings on each arm of proxies. After each cost, the architecture that is
then the best by the score is the *incumbent*, and its *regret* is how much the best architecture of
the space is better in truth. What is trained is kept in a store: the same call goes on.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.errors import UserError, unknown
from condense.progress import Progress, progress
from condense.randomness import generator
from condense.runs.job import environment
from condense.study.record import Record, locked
from condense.study.study import Study
from condense.study.trials import Trials
from condense.study.workers import Workers
from nas.columns import Floats
from nas.incumbents import Exploration, Incumbent
from nas.plan import SearchPlan, find_reference
from nas.proxies import FREE
from nas.ranking import collect
from nas.report import search_command
from nas.results import facts_of, truth_of
from nas.sampler import SAMPLERS, Proposals
from nas.sampling import Only, candidates, drawn
from nas.search import planned
from nas.spaces import space
from nas.training import SearchBench, SearchTask

POPULATION, PARENTS = 20, 5
"""Architectures that live at once in an evolution, and how many of them a parent is chosen from."""
STARTUP = 10
"""Random architectures that a sampler of Optuna learns from at first."""
RUNGS = 3
"""How often the best of successive halving are trained."""
_FEW = 2
"""Tasks that are done in this process: one architecture has a training and its free scores."""

Incumbents = Iterator[tuple[int, int]]
"""Costs, ascending, and the index of the architecture that is the best by then."""


class _OutOfTime(Exception):
    """The time limit ended before all trainings of a step were done."""


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """Trains architectures and scores them; what is in the store is not trained again."""

    plan: SearchPlan
    bench: SearchBench
    store: Trials
    workers: Workers
    until: float | None
    """The end of the time limit, as `time.monotonic` tells it."""
    seed: int
    asked: set[SearchTask] = field(default_factory=set)
    """Every training and free score that was asked for."""

    @property
    def fits(self) -> Sequence[int]:
        """The architectures that may be chosen."""
        return self.plan.indices

    def best_first(self, indices: Collection[int], seeds: int = 1) -> list[int]:
        """The architectures, the best first, by scores that are means over `seeds` trainings."""
        plan = dataclasses.replace(self.plan, indices=tuple(sorted(indices)), seeds=seeds)
        study = Study(self.store, plan.tasks(), plan.keys.of)
        self.asked.update(study.tasks)
        if len(study.left) > _FEW or self.workers.cluster:
            self._work(study, self.workers)
        elif study.left:  # worker processes would take longer to start
            self._work(study, dataclasses.replace(self.workers, workers=0))
        if study.left:
            raise _OutOfTime
        ranking = collect(plan, self.store, None)
        return [ranking.indices[at] for at in ranking.order]

    def _work(self, study: Study, workers: Workers) -> None:
        left = None if self.until is None else (self.until - time.monotonic()) / 60
        if left is not None and left <= 0:
            raise _OutOfTime
        how = "the same command goes on"
        study.work(self.bench, workers, lambda *done: None, how_to_go_on=how, minutes=left)

    def free(self) -> "_Scorer":
        """The same by what is free alone."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, arms={}, by=FREE))

    def sample(self, count: int) -> list[int]:
        """Random architectures in a random order: all strategies begin with the same."""
        chosen = drawn(space(self.plan.space), min(count, len(self.fits)), self.seed, self.fits)
        order = torch.randperm(len(chosen), generator=generator(self.seed, "nas/order"))
        return [chosen[at] for at in order.tolist()]


def _random(scorer: _Scorer, budget: int) -> Incumbents:
    sampled = scorer.sample(budget)
    scorer.best_first(sampled)  # all at once, so that workers share them
    for cost in range(1, len(sampled) + 1):
        yield cost, scorer.best_first(sampled[:cost])[0]


def _evolution(scorer: _Scorer, budget: int) -> Incumbents:
    neighbours = getattr(space(scorer.plan.space), "neighbours", None)
    if neighbours is None:
        raise UserError(f"{scorer.plan.space} has no neighbours to evolve to: leave evolution out")
    draws, fits = generator(scorer.seed, "nas/evolution"), set(scorer.fits)
    seen = scorer.sample(min(POPULATION, max(2, budget // 4)))
    population, order = list(seen), scorer.best_first(seen)
    yield len(seen), order[0]
    while len(seen) < budget:
        chosen = torch.randperm(len(population), generator=draws)[:PARENTS].tolist()
        parent = min((population[at] for at in chosen), key=order.index)
        children = [one for one in neighbours(parent) if one in fits and one not in seen]
        if not children:
            children = [one for one in scorer.fits if one not in seen]
        if not children:
            return  # the whole space is seen
        child = children[int(torch.randint(len(children), (), generator=draws))]
        seen.append(child)
        population = [*population[1:], child]
        order = scorer.best_first(seen)
        yield len(seen), order[0]


def _optuna(scorer: _Scorer, budget: int, sampler: str = "") -> Incumbents:
    proposals = Proposals(scorer.plan.space, scorer.fits, sampler or SAMPLERS[0], scorer.seed)
    seen = scorer.sample(min(STARTUP, max(2, budget // 4)))
    order = scorer.best_first(seen)
    yield len(seen), order[0]
    while len(seen) < min(budget, len(scorer.fits)):
        seen.append(proposals.next(order))
        order = scorer.best_first(seen)
        yield len(seen), order[0]


def _halving(scorer: _Scorer, budget: int) -> Incumbents:
    left = scorer.sample(max(1, int(budget / sum(0.5**rung for rung in range(RUNGS)))))
    cost = 0
    for rung in range(RUNGS):
        cost += len(left)
        if cost > budget:
            return
        left = scorer.best_first(left, rung + 1)
        yield cost, left[0]
        left = left[: max(1, len(left) // 2)]


def _free(scorer: _Scorer, budget: int) -> Incumbents:
    yield 0, scorer.free().best_first(scorer.sample(budget))[0]


STRATEGIES: dict[str, Callable[[_Scorer, int], Incumbents]] = {
    "random": _random,
    "evolution": _evolution,
    "halving": _halving,
    "free": _free,
    "optuna": _optuna,
    **{f"optuna:{name}": partial(_optuna, sampler=name) for name in SAMPLERS},
}
"""The strategies by name."""
USUAL = ("random", "evolution", "halving", "free")
"""The strategies by default: those that need nothing but this package."""


def explore(
    dataset: Dataset,
    *,
    space_name: str,
    out: str | Path,
    budget: int = 50,
    strategies: Sequence[str] = USUAL,
    seed: int = 0,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    **choices: Any,
) -> Exploration:
    """Search a space within a budget, by each of the strategies.

    Parameters
    ----------
    budget: trainings on each arm of proxies that a strategy may make, 1 or more.
    strategies: names of `STRATEGIES`.
    seed: draws the architectures and the changes of an evolution.
    minutes: a time limit. What is finished by then is kept, and the same call goes on.
    choices: `proxies`, `only`, `regime`, `held_out`, `by`, `reference`, `truth`, `source` and
        `store` of `nas.search.search`. With a reference, only what it knows is searched.

    Writes `incumbents.csv`, `incumbents.json` and `report.html` into `out`. Raises `UserError` for
    bad input and for a folder of another search.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> from condense.training.protocol import Protocol
    >>> from nas.regime import Regime
    >>> with TemporaryDirectory() as out:
    ...     found = explore(
    ...         load_dataset("digits"), space_name="convnet720", out=out, budget=2,
    ...         strategies=["random"], proxies=["random:1"], by="random:1 summed_loss",
    ...         only={"width": ["32"], "pool": ["none"], "depth": ["1"]},
    ...         regime=Regime(protocol=Protocol(epochs=1)), workers=Workers(workers=0), quiet=True,
    ...     )
    >>> [one.cost for one in found.incumbents]
    [1, 2]
    """
    _check(budget, strategies)
    indices = _searched(dataset, space_name, **choices)
    only = choices.pop("only", None)
    plan, bench = planned(dataset, space_name=space_name, sample=indices, seeds=1, **choices)
    (workers := workers or Workers(threads=1)).check()
    folder, truth = Path(out), truth_of(plan)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    fixed = dataclasses.asdict(plan) | {"indices": len(indices), "budget": budget, "seed": seed}
    with locked(folder):
        files = ("incumbents.csv", "incumbents.json", "report.html")
        record = Record(folder, "explore.json", "exploration", "nas search", files)
        if record.exists():
            record.check_same({"plan": fixed})
        else:
            record.check_free({"plan": fixed})
        with (
            Trials(plan.store or folder / "trials.sqlite") as store,
            progress(space_name, budget * len(strategies), 0, quiet=quiet) as line,
        ):
            record.write({"plan": fixed})
            best = None if truth is None else float(truth.max())
            again = search_command(plan, folder, budget, strategies, seed, only)
            scorer = _Scorer(
                plan=plan, bench=bench, store=store, workers=workers, until=until, seed=seed
            )
            incumbents, unfinished = _followed(scorer, strategies, budget, truth, line)
            made = {"command": again, **_made(scorer)}
            found = Exploration(folder, space_name, budget, incumbents, unfinished, best, made)
            found.save()
            return found


def _followed(
    scorer: _Scorer, strategies: Sequence[str], budget: int, truth: Floats | None, line: Progress
) -> tuple[list[Incumbent], list[str]]:
    """The incumbents of each strategy, and the strategies that are not at their end."""
    incumbents, unfinished = list[Incumbent](), list[str]()
    for number, name in enumerate(strategies):
        try:
            for cost, index in STRATEGIES[name](scorer, budget):
                line(number * budget + cost, name)
                regret = _regret(scorer.plan, truth, index)
                incumbents.append(Incumbent(name, cost, index, regret))
        except _OutOfTime:
            unfinished.append(name)
    return incumbents, unfinished


def _made(scorer: _Scorer) -> dict[str, Any]:
    """How what was found was made: the time of the trainings, the machine, the settings."""
    plan = scorer.plan
    study = Study(scorer.store, [*scorer.asked], plan.keys.of)
    return {
        "trainings": sum(task.proxy != FREE for task in study.results()),
        "seconds": study.seconds,
        "environment": environment("cpu"),
        "settings": facts_of(plan),
    }


def _regret(plan: SearchPlan, truth: Floats | None, index: int) -> float | None:
    """How much better the best is than the architecture with this index."""
    return None if truth is None else float(truth.max() - truth[plan.indices.index(index)])


def _check(budget: int, strategies: Sequence[str]) -> None:
    """Raise a `UserError` for a budget or a strategy that there cannot be."""
    if budget < 1:
        raise UserError(f"--budget {budget}: it must be 1 or more")
    for name in strategies:
        if name not in STRATEGIES:
            raise unknown("strategy", name, STRATEGIES)


def _searched(
    dataset: Dataset,
    space_name: str,
    *,
    only: Only | None = None,
    reference: str | Path | None = None,
    truth: str | None = None,
    source: Source | None = None,
    **_: Any,
) -> list[int]:
    """The architectures that may be chosen: those that the reference knows, if there is one."""
    indices, column = candidates(space_name, 0, 0, only=only), truth or f"{dataset.name}_test"
    data_dir = source.data_dir if source else None
    table = find_reference(space_name, column, reference, data_dir)
    known = set(indices if table is None else table.known(column))
    found = [index for index in indices if index in known]
    if not found:
        raise UserError(f"{reference} knows none of the architectures that are left")
    return found
