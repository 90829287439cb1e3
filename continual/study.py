"""The protocol that measures condensed memories: methods x class orders x repeats, step by step.

Mode `scratch` is the paper's: at each step networks are trained from scratch on the union of the memories so far, and
tested on all classes seen. Mode `replay` runs an Avalanche strategy, which sees the experience's real images too.

A run folder holds:
plan.json       everything resolved
rows.json       every network's accuracies; a killed run goes on behind the last of them
memories/       the memories, by content: no method, order or crash makes one twice
summary.json    statistics by method
accuracy.png, report.html, and in mode `replay` tensorboard/
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, make_preprocess
from condense.device import pick_device
from condense.errors import UserError, unknown
from condense.files import read_json, write_json
from condense.methods.selection import check_ipc
from condense.networks.build import build
from condense.progress import progress
from condense.randomness import derive
from condense.runs.shelf import Selection, Shelf
from condense.sets.condensed import CondensedSet
from condense.settings import plain, read
from condense.study.record import locked
from continual import results
from continual.memories import memories, parse, quantised, union
from continual.orders import class_order, of_classes, split
from continual.plan import CLASS_BALANCED, Plan
from continual.results import Results, Row
from continual.scratch import Task, train_networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What `plan.json` records and a resumed run goes on with.

    >>> Job(plan=Plan(steps=5), source=Source(name="digits"), fingerprint="3f2a").cache is None
    True
    """

    plan: Plan
    source: Source
    fingerprint: str
    """That of the dataset."""
    cache: str | None = None
    """Folder of the memories; None is `memories` in the run folder."""


def run(
    dataset: Dataset,
    plan: Plan,
    out: str | Path,
    *,
    source: Source | None = None,
    cache: str | Path | None = None,
    quiet: bool = False,
) -> Results:
    """Measure `plan` on `dataset` in the folder `out`, made here. `cache`: where memories are kept, `out`/memories by default.

    Raises `UserError` for bad input before anything is made, and for a folder that holds another plan.
    """
    folder = Path(out)
    _check(dataset, plan)
    job = Job(
        plan=plan,
        source=source or Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        cache=None if cache is None else str(cache),
    )
    with locked(folder):
        if (folder / "plan.json").exists():
            if read_json(folder / "plan.json") != plain(job):
                raise UserError(f"{folder} holds a run with other settings: choose another --out")
            raise UserError(
                f"{folder} already holds this run: go on with `continual --resume {folder}`"
            )
        write_json(folder / "plan.json", plain(job))
        return _Run(dataset, folder, job, quiet).finish()


def resume(
    out: str | Path,
    dataset: Dataset | None = None,
    *,
    cache: str | Path | None = None,
    quiet: bool = False,
) -> Results:
    """Go on with the run in folder `out`. `dataset` is needed only where no name loads it; `cache` if it has moved."""
    folder = Path(out)
    if not (folder / "plan.json").exists():
        raise UserError(
            f"{folder} holds no continual run (no plan.json): start one with `continual --out {folder}`"
        )
    with locked(folder):
        content = read_json(folder / "plan.json")
        job = read(Job, content, f"{folder / 'plan.json'} is not of this version of condensekit")
        dataset = dataset or job.source.load()
        if dataset.fingerprint != job.fingerprint:
            raise UserError(
                f"{folder} measures {job.source.name} with content {job.fingerprint}, "
                f"but {dataset.name} found now has content {dataset.fingerprint}"
            )
        if cache is not None:
            job = dataclasses.replace(job, cache=str(cache))
        return _Run(dataset, folder, job, quiet).finish()


def chosen(dataset: Dataset, classes: int | None) -> Dataset:
    """The dataset, or `classes` of its classes, drawn by NumPy's seed 0."""
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
    split(range(len(part.classes)), plan.steps)
    check_ipc(part, plan.ipc)
    build(plan.network, part.shape, len(part.classes))
    plan.protocol(part)
    for method in plan.methods:
        if method != CLASS_BALANCED:
            parse(method, part, plan.ipc, plan.condense_steps)
    if plan.mode == "replay":
        from continual import CondensedReplayPlugin  # noqa: F401 (says so where Avalanche is absent)
        from continual.plugins import STRATEGIES

        if plan.strategy not in STRATEGIES:
            raise unknown("strategy", plan.strategy, STRATEGIES)


class _Run:
    """A plan under way in its folder."""

    def __init__(self, dataset: Dataset, folder: Path, job: Job, quiet: bool) -> None:
        plan = job.plan
        self.dataset, self.plan, self.folder, self.job, self.quiet = (
            chosen(dataset, plan.classes),
            plan,
            folder,
            job,
            quiet,
        )
        self.preprocess = make_preprocess("standard", self.dataset)
        self.device = pick_device(plan.device)
        orders = [class_order(len(self.dataset.classes), seed) for seed in range(plan.orders)]
        self.groups = [split(order, plan.steps) for order in orders]
        self.results = Results(plan.methods, plan.steps)
        if (folder / "rows.json").exists():
            for row in read_json(folder / "rows.json"):
                self.results.add(
                    Row(
                        **{
                            **row,
                            "accuracies": tuple(row["accuracies"]),
                            "images": tuple(row["images"]),
                        }
                    )
                )
        self.shelf = Shelf(
            folder=Path(job.cache or folder / "memories"),
            preprocess=self.preprocess,
            device=plan.device,
            quiet=quiet,
        )

    def finish(self) -> Results:
        """Measure what is not yet there, and write what a finished run has."""
        total = len(self.plan.methods) * self.plan.orders * self.plan.repeats * self.plan.steps
        measure = self._from_scratch if self.plan.mode == "scratch" else self._by_strategy
        sizes = {}
        for method in self.plan.methods:
            held = self._memories(method)
            sizes[method] = self._sizes(held)
            with _board(self.results, total, self.quiet) as refresh:
                for row in measure(method, held):
                    self.results.add(row)
                    write_json(
                        self.folder / "rows.json",
                        [dataclasses.asdict(row) for row in self.results.rows.values()],
                    )
                    refresh(f"{row.method} step {row.step + 1}: {row.seen:.1%}")
        classes = len(self.dataset.classes)
        how = "from scratch" if self.plan.mode == "scratch" else self.plan.strategy
        title = f"{self.dataset.name}: {classes} classes in {self.plan.steps} steps, {self.plan.ipc} images a class, {how}"
        write_json(
            self.folder / "summary.json",
            {**plain(self.job), "memory": sizes, "methods": self.results.to_json()},
        )
        picture = results.plot(
            self.results, self.folder / "accuracy.png", title, classes // self.plan.steps
        )
        results.page(self.results, self.folder / "report.html", picture, plain(self.job), sizes)
        return self.results

    def _memories(self, method: str) -> list[list[CondensedSet]]:
        """The memory of each step of each order; none for Avalanche's own buffer."""
        if method == CLASS_BALANCED:
            return []
        how = parse(method, self.dataset, self.plan.ipc, self.plan.condense_steps)
        common = {"ipc": self.plan.ipc, "seed": self.plan.seed}
        held = []
        # A condensation tells its own progress.
        quiet = self.quiet or not isinstance(how, Selection)
        with progress(f"memories by {method}", len(self.groups), quiet=quiet) as told:
            for groups in self.groups:
                held.append(memories(how, self.dataset, groups, self.shelf, **common))
                told(len(held))
        return (
            [list(map(quantised, sets)) for sets in held] if self.plan.storage == "uint8" else held
        )

    def _sizes(self, held: list[list[CondensedSet]]) -> dict[str, int]:
        """Images and bytes of the memory after the last step."""
        values = torch.Size(self.dataset.shape).numel()
        images = sum(map(len, held[0])) if held else self._real_images()
        return {"images": images, "uint8": images * values, "float32": 4 * images * values}

    def _real_images(self) -> int:
        """How many uint8 images are as many bytes as a memory of ours."""
        return (
            self.plan.ipc * len(self.dataset.classes) * (4 if self.plan.storage == "float32" else 1)
        )

    # ---- from scratch

    def _from_scratch(self, method: str, held: list[list[CondensedSet]]) -> Iterator[Row]:
        """The rows that are not yet there, step by step, all orders and repeats of a step together."""
        labels = self.dataset.test.labels
        images = held[0][0].preprocess.apply(
            self.dataset.test.pixels
        )  # a set from a file may have another than ours
        for step in range(self.plan.steps):
            tasks, keys = [], []
            for order, groups in enumerate(self.groups):
                tests = [torch.isin(labels, torch.tensor(group)) for group in groups[: step + 1]]
                memory = union(held[order][: step + 1])
                seed = derive(
                    self.plan.seed, "continual", order, step
                )  # the same for every method: paired
                for repeat in range(self.plan.repeats):
                    if (method, order, repeat, step) not in self.results.rows:
                        tasks.append(Task(memory, seed, repeat, tests))
                        keys.append((order, repeat))
            done = train_networks(
                tasks,
                images,
                labels,
                self.plan.network,
                self.plan.protocol(self.dataset),
                self.device,
            )
            for (order, repeat), task, found in zip(keys, tasks, done, strict=True):
                counts = tuple(int(test.sum()) for test in task.tests)
                yield Row(method, order, repeat, step, tuple(found), counts)

    # ---- by an Avalanche strategy

    def _by_strategy(self, method: str, held: list[list[CondensedSet]]) -> Iterator[Row]:
        """The rows of the (order, repeat) that are not complete: a strategy cannot be entered in the middle of its stream."""
        from continual.replay import play

        for order, groups in enumerate(self.groups):
            for repeat in range(self.plan.repeats):
                if (method, order, repeat, self.plan.steps - 1) in self.results.rows:
                    continue
                memory = union(held[order]) if held else self._real_images()
                measured = play(
                    self.dataset,
                    [c for group in groups for c in group],
                    memory,
                    plan=self.plan,
                    preprocess=_common(self.preprocess, memory),
                    seed=derive(self.plan.seed, "continual", order, repeat),
                    device=self.device,
                    board=self.folder
                    / "tensorboard"
                    / f"{method.replace('/', '_')}-{order}-{repeat}",
                )
                for step, (accuracies, counts) in enumerate(measured):
                    yield Row(method, order, repeat, step, accuracies, counts)


def _common(ours: Preprocess, memory: CondensedSet | int) -> Preprocess:
    """The preprocessing of the stream: that of the memory, where it has one."""
    return memory.preprocess if isinstance(memory, CondensedSet) else ours


@contextlib.contextmanager
def _board(measured: Results, total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A live table on a terminal, plain lines now and then elsewhere, nothing when quiet; yields what refreshes it."""
    if not quiet and sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(results.live(measured), console=Console(stderr=True)) as shown:
            yield lambda note: shown.update(results.live(measured))
    else:
        with progress("continual", total, len(measured.rows), quiet=quiet) as told:
            yield lambda note: told(len(measured.rows), note)
