"""Runs that measure condensed memories: methods, class orders and repeats, step by step.

Mode `scratch` is the protocol of the papers. After each step, networks are trained from scratch on
the memory so far and tested on all classes seen. In mode `replay` an Avalanche strategy goes
through the stream, and also sees the real images of each experience.

A run folder holds:
plan.json       everything that decides the results
trials.sqlite   the result of every finished task (`continual.tasks`), written when it is finished
memories/       the memories, named by their content, so that none is made twice
summary.json    statistics by method
accuracy.png    accuracy by classes seen
report.html     all of it to look at
tensorboard/    curves, in mode `replay`
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, combinations
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import PUBLISHED, make_preprocess
from condense.device import pick_device
from condense.errors import UserError, unknown
from condense.files import digest
from condense.methods.base import Recipe
from condense.methods.selection import check_ipc
from condense.networks.build import build
from condense.progress import progress
from condense.report.page import write
from condense.runs.job import environment
from condense.runs.shelf import Selection, Shelf
from condense.sets.condensed import CondensedSet
from condense.settings import plain, read
from condense.study.interrupt import Interrupted, stoppable
from condense.study.record import Record, locked
from condense.study.study import Study
from condense.study.trials import Trial, Trials
from condense.study.workers import Bench, Workers
from condense.words import counted
from condense.writing import write_json
from continual import report, results
from continual.memories import made_jointly, memories, parse, quantised, seconds
from continual.orders import class_order, of_classes, split
from continual.page import report_of
from continual.plan import BYTES, CLASS_BALANCED, NOT_CONDENSED, Plan, filled
from continual.results import Results
from continual.scratch import ScratchBench


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What plan.json records: everything that a resumed run needs.

    >>> Job(plan=Plan(steps=5), source=Source(name="digits"), fingerprint="3f2a").cache is None
    True
    """

    plan: Plan
    source: Source
    fingerprint: str
    """The fingerprint of the dataset."""
    cache: str | None = None
    """The folder of the memories. None stands for `memories` in the run folder."""


def run(
    dataset: Dataset,
    plan: Plan,
    out: str | Path,
    *,
    source: Source | None = None,
    cache: str | Path | None = None,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Results:
    """Measure `plan` on `dataset`, and keep everything in the folder `out`, which is made here.

    Parameters
    ----------
    source: where a resumed run finds the dataset; by default it is loaded by its name.
    cache: the folder where memories are kept, which several runs may share; `out`/memories by
        default.
    workers: where networks are trained; in this process by default. Their device is the plan's.
        Memories are always made in this process.
    minutes: stop after this time. What is finished is then reported and returned, and `resume`
        goes on.

    Raises `UserError` for bad input before anything is written, and for a folder that holds a run
    already; `Interrupted` on Ctrl-C or SIGTERM, with everything finished kept.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> few = {"orders": 1, "repeats": 1, "epochs": 1, "network": "convnet-d2-w8"}
    >>> with TemporaryDirectory() as folder:
    ...     plan = Plan(steps=2, methods=("random",), ipc=1, **few)
    ...     measured = run(load_dataset("digits"), plan, folder, quiet=True)
    >>> len(measured.rows)
    2
    """
    folder = Path(out)
    _check(dataset, plan)
    workers = _workers(plan, workers, minutes)
    job = Job(
        plan=plan,
        source=source or Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        cache=None if cache is None else str(cache),
    )
    with locked(folder):
        _record(folder).check_free(plain(job))
        _record(folder).write(plain(job))
        return _Run(dataset, folder, job, quiet).finish(workers, minutes)


def resume(
    out: str | Path,
    dataset: Dataset | None = None,
    *,
    cache: str | Path | None = None,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Results:
    """Go on with the run in the folder `out`, as if it had never stopped.

    `dataset` is only needed if its name does not load it, `cache` only if the memories have moved.
    The rest is as for `run`. Raises `UserError` if there is no run or if the dataset has changed.

    >>> resume("no-such-folder")
    Traceback (most recent call last):
    condense.errors.UserError: no-such-folder holds no run (no plan.json): start one with ...
    """
    folder = Path(out)
    record = _record(folder)
    job = read(Job, record.read(), f"{record.path} is not of this version of condensekit")
    _check_strategy(job.plan)
    workers = _workers(job.plan, workers, minutes)
    with locked(folder):
        dataset = dataset or job.source.load()
        if dataset.fingerprint != job.fingerprint:
            raise UserError(
                f"{folder} measures {job.source.name} with content {job.fingerprint}, "
                f"but {dataset.name} found now has content {dataset.fingerprint}"
            )
        if cache is not None:
            job = dataclasses.replace(job, cache=str(cache))
        return _Run(dataset, folder, job, quiet).finish(workers, minutes)


def chosen(dataset: Dataset, classes: int | None) -> Dataset:
    """The dataset, or so many of its classes, drawn with NumPy's seed 0.

    Raises `UserError` if it has fewer.

    >>> from condense import load_dataset
    >>> chosen(load_dataset("digits"), 3).classes
    ('2', '4', '8')
    """
    if classes is None:
        return dataset
    if not 1 <= classes <= len(dataset.classes):
        raise UserError(
            f"cannot take {classes} classes of {dataset.name}: it has {len(dataset.classes)}"
        )
    return of_classes(dataset, sorted(class_order(len(dataset.classes), 0)[:classes]))


def _check(dataset: Dataset, plan: Plan) -> None:
    """Raise `UserError` for what the plan and the dataset do not allow."""
    part = chosen(dataset, plan.classes)
    split(range(len(part.classes)), plan.steps, plan.base)
    check_ipc(part, plan.ipc)
    build(plan.network, part.shape, len(part.classes))
    plan.protocol(part)
    for method in plan.methods:
        if method not in NOT_CONDENSED:
            parse(filled(method)[0], part, plan.ipc, plan.condense_steps)
    _check_strategy(plan)


def _check_strategy(plan: Plan) -> None:
    """Raise `UserError` for an unknown strategy, and where Avalanche is missing."""
    if plan.mode == "replay":
        from continual import CondensedReplayPlugin  # noqa: F401 (its error says what to install)
        from continual.plugins import EMBEDDING, STRATEGIES

        if plan.strategy not in STRATEGIES:
            raise unknown("strategy", plan.strategy, STRATEGIES)
        for method in plan.methods:
            if plan.strategy in EMBEDDING and filled(method)[1] == "hard":
                raise UserError(
                    f"`{method}` fills a memory by the losses of a classifier, and {plan.strategy} "
                    "classifies by means: give `+real`"
                )


def _workers(plan: Plan, workers: Workers | None, minutes: float | None) -> Workers:
    """The workers, or none but this process, on the plan's device.

    Raises `UserError` if there is no such device or cluster, and for a time that is not above 0.
    """
    with stoppable(minutes):
        pass  # raises for a wrong time before anything is written
    workers = dataclasses.replace(workers or Workers(workers=0), device=plan.device)
    workers.check()
    return workers


def _record(folder: Path) -> Record:
    """The `plan.json` of a folder. Raises `UserError` for a run of an older version."""
    if (folder / "rows.json").exists():
        older = "an older version of condensekit (rows.json)"
        raise UserError(f"{folder} holds a run of {older}: choose another --out")
    files = ("summary.json", "accuracy.png", "report.html")
    return Record(folder, "plan.json", "run", "continual", files)


class _Run:
    """A plan under way in its folder."""

    def __init__(self, dataset: Dataset, folder: Path, job: Job, quiet: bool) -> None:
        self.plan = plan = job.plan
        self.dataset = chosen(dataset, plan.classes)
        self.folder, self.job, self.quiet = folder, job, quiet
        self.preprocess = make_preprocess("standard", self.dataset)
        orders = [class_order(len(self.dataset.classes), seed) for seed in range(plan.orders)]
        self.groups = [split(order, plan.steps, plan.base) for order in orders]
        self.results = Results(plan.methods, plan.steps, total=plan.networks)
        if self.dataset.name not in PUBLISHED:
            self.results.notes.append(
                f"{self.dataset.name} has no published constants: its standardisation was fitted "
                "on the training images of all classes, those of later steps included."
            )
        self.sizes: dict[str, dict[str, Any]] = {}
        self.how_to_go_on = f"go on with `condensekit continual --resume {folder}`"
        self.shelf = Shelf(
            folder=Path(job.cache or folder / "memories"),
            preprocess=self.preprocess,
            device=plan.device,
            quiet=quiet,
        )

    def finish(self, workers: Workers, minutes: float | None) -> Results:
        """Measure what is left, until the time is up, and write what there is then."""
        with Trials(self.folder / "trials.sqlite") as store:
            studies: dict[str, Study[Any]] = {
                method: Study(store, self.plan.tasks(method), attrgetter("key"))
                for method in self.plan.methods
            }
            for study in studies.values():
                for task, result in study.results().items():
                    self.results.add(*task.rows(result))
            with stoppable(minutes) as time_is_up:
                try:
                    for method, study in studies.items():
                        held = self._memories(method)
                        self.sizes[method] = self._sizes(method, held)
                        if self.plan.mode == "scratch" and _same(held):
                            self.results.same_at_end.add(method)
                        if study.left:
                            self._measure(study, self._bench(held), workers, time_is_up)
                except (KeyboardInterrupt, Interrupted):  # in a condensation too
                    if not time_is_up():
                        tested = f"{len(self.results.rows)} of {self.results.total} networks tested"
                        stopped = f"stopped with {tested}; {self.how_to_go_on}"
                        raise Interrupted(stopped) from None
            self.seconds = sum(study.seconds for study in studies.values())
        self._write()
        return self.results

    def _measure(
        self, study: Study[Any], bench: Bench[Any], workers: Workers, time_is_up: Callable[[], bool]
    ) -> None:
        """Do what is left with one method."""
        tasks = {task.key: task for task in study.tasks}

        def keep(done: int, trial: Trial) -> None:
            rows = tasks[trial.key].rows(trial.result)
            self.results.add(*rows)
            refresh(f"{rows[-1].method} step {rows[-1].step + 1}: {rows[-1].seen:.1%}")
            if time_is_up():  # in a thread no signal says so
                raise KeyboardInterrupt

        with report.board(self.results, self.quiet) as refresh:
            study.work(bench, workers, keep, how_to_go_on=self.how_to_go_on)

    def _bench(self, held: list[list[CondensedSet]]) -> Bench[Any]:
        """What the tasks of a method share, which has these memories."""
        common: dict[str, Any] = {"plan": self.plan, "groups": self.groups, "memories": held}
        if self.plan.mode == "scratch":
            protocol = self.plan.protocol(self.dataset)
            return ScratchBench(test=self.dataset.test, protocol=protocol, **common)
        from continual.replay import StreamBench

        return StreamBench(
            dataset=self.dataset,
            real_images=self._real_images(),
            preprocess=self.preprocess,
            boards=self.folder.absolute() / "tensorboard",
            **common,
        )

    def _memories(self, method: str) -> list[list[CondensedSet]]:
        """What each step adds to the memory, by order and step; empty for Avalanche's buffer."""
        if method in NOT_CONDENSED:
            return []
        recipe = self._recipe(method)
        if isinstance(recipe, CondensedSet) and made_jointly(recipe):
            self.results.notes.append(
                f"{filled(method)[0]} was made of all classes at once: its images of early classes "
                "depend on those of later steps."
            )
        held = []
        # A condensation shows its own progress.
        quiet = self.quiet or not isinstance(recipe, Selection)
        with progress(f"memories by {method}", len(self.groups), quiet=quiet) as shown:
            for groups in self.groups:
                held.append(memories(recipe, self.dataset, groups, self.shelf, **self._made))
                shown(len(held))
        if self.plan.storage == "float32":
            return held
        return [list(map(quantised, sets)) for sets in held]

    def _sizes(self, method: str, held: list[list[CondensedSet]]) -> dict[str, Any]:
        """The memory after the last step, and the seconds of its making, the mean over orders."""
        values = torch.Size(self.dataset.shape).numel()
        without = {CLASS_BALANCED: self._real_images(), "joint": len(self.dataset.train)}
        images = sum(map(len, held[0])) if held else without.get(method, 0)
        sizes = {name: images * values * count for name, count in BYTES.items()}
        stored = sizes[self.plan.storage if held else "uint8"]
        return {"images": images, "bytes": stored, **sizes, "seconds": self._seconds(method)}

    def _seconds(self, method: str) -> float | None:
        if method in NOT_CONDENSED:
            return None
        recipe, data, shelf = self._recipe(method), self.dataset, self.shelf
        spent = [seconds(recipe, data, groups, shelf, **self._made) for groups in self.groups]
        known = [one for one in spent if one is not None]
        return fmean(known) if len(known) == len(spent) else None

    def _recipe(self, method: str) -> Recipe | CondensedSet | Selection:
        """What makes the condensed part of a method's memory."""
        return parse(filled(method)[0], self.dataset, self.plan.ipc, self.plan.condense_steps)

    @property
    def _made(self) -> dict[str, int]:
        """What all memories of the run have in common."""
        return {"ipc": self.plan.ipc, "seed": self.plan.seed}

    def _real_images(self) -> int:
        """How many real images, as uint8 pixels, have as many bytes as a condensed memory."""
        return self.plan.ipc * len(self.dataset.classes) * BYTES[self.plan.storage]

    def _write(self) -> None:
        """Write statistics, plot and report of what is measured."""
        classes = len(self.dataset.classes)
        training = "from scratch" if self.plan.mode == "scratch" else self.plan.strategy
        name, steps = self.dataset.name, counted(self.plan.steps, "step")
        title = f"{name}: {classes} classes in {steps}, {self.plan.ipc} a class, {training}"
        summary = {"left": self.results.left, "memory": self.sizes, "seconds": self.seconds}
        summary["methods"] = self.results.to_json()
        summary["differences"] = self._differences()
        summary["notes"] = results.explained(self.results)
        summary["seen"] = seen = list(accumulate(len(group) for group in self.groups[0]))
        summary["environment"] = environment(pick_device(self.plan.device).type)
        write_json(self.folder / "summary.json", {**plain(self.job), **summary})
        report.plot(self.results, self.folder / "accuracy.png", title, seen)
        write(self.folder / "report.html", report_of(self.folder))

    def _differences(self) -> dict[str, dict[str, Any]]:
        """What a method's final accuracy is above another's, by name of both."""
        return {
            f"{ours} - {theirs}": one.to_json()
            for theirs, ours in combinations(self.plan.methods, 2)
            if (one := self.results.difference(ours, theirs))
        }


def _same(held: list[list[CondensedSet]]) -> bool:
    """Whether the memories of all orders hold the same images at the end."""
    contents = [
        {
            int(c): digest({"images": one.per_class(int(c))})
            for one in sets
            for c in one.class_of().unique()
        }
        for sets in held
    ]
    return len(held) > 1 and all(content == contents[0] for content in contents)
