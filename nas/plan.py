"""The plan of a search: its settings, as `search.json` records them, and how they are chosen."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.errors import unknown
from condense.settings import at_least, plain, read, read_text, replaced, require
from condense.study.record import Record
from condense.study.study import MOST_TASKS
from condense.training.protocol import Protocol
from condense.version import version
from nas.own import Own
from nas.proxies import FREE
from nas.reference import Reference, load
from nas.regime import Regime
from nas.spaces import space
from nas.training import Keys, SearchTask

HELD_OUT = 1000
"""Training images that are held out to score by, by default, where the score needs any."""
FILE = "search.json"
"""The file of the plan in the folder of a search."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """All settings of a search: what `search.json` records, and what a resumed search uses.

    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=Regime(protocol=Protocol()),
    ...     held_out=100, num_classes=10, by="random accuracy", arms={"random": ("random",)},
    ...     recipes={"free": ("free", "baselines"), "random": ("4567", "epochs=20")},
    ... )
    >>> len(plan.tasks())  # for each of the two candidates the baselines and two trainings
    6
    >>> read(SearchPlan, dataclasses.asdict(plan), "search.json") == plan
    True
    """

    space: str
    source: Source
    """Where the dataset can be loaded from again."""
    fingerprint: str
    """The fingerprint of the dataset."""
    proxies: tuple[str, ...]
    """The names of the proxies, as given; see `nas.proxies`."""
    indices: tuple[int, ...]
    """The candidates."""
    seeds: int
    """Trainings of each candidate on each proxy."""
    regime: Regime
    held_out: int
    """Training images that are held out to score by; 0 if only training losses count."""
    num_classes: int
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The proxies of each arm; see `nas.proxies`."""
    sample: str = ""
    """How the candidates were chosen, for the report."""
    truth: str = ""
    """The column of the reference that the ranking is judged by."""
    seen: tuple[str, ...] = ()
    """The proxies that were made from images that are held out here."""
    by: str = ""
    """The column to rank by. A reference run has none: its networks are tested instead."""
    reference: str | None = None
    """The file of the reference, if there is one."""
    own: dict[str, str] = field(default_factory=dict)
    """What identifies each network where the candidates are a user's own; see `nas.own`."""
    store: str | None = None
    """The file of a store that searches share; by default each folder has its own."""
    recipes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the keys of the trainings are made of; see `nas.training.Keys`."""

    def __post_init__(self) -> None:
        at_least(1, self, "seeds", "num_classes")
        at_least(0, self, "held_out")
        size = len(self.own) if self.own else space(self.space).SIZE
        trainings = self.seeds * len(self.indices)
        fewer = f"fewer: this is {trainings:,} trainings on each proxy"
        require("seeds", self.seeds, trainings <= MOST_TASKS, fewer)
        for index in self.indices:
            require("indices", index, 0 <= index < size, f"from 0 to {size - 1}")

    @property
    def keys(self) -> Keys:
        """The keys of the trainings in the store."""
        return Keys(self.where, self.recipes)

    @property
    def where(self) -> Any:
        """The name of the space, or a user's own candidates in place of one."""
        return Own(self.own) if self.own else self.space

    @property
    def ranks(self) -> bool:
        """Whether this is a search, and not a reference run."""
        return bool(self.by)

    def tasks(self) -> list[SearchTask]:
        """Every training, in order.

        All trainings of a seed come before those of the next seed. When a search is stopped early,
        it has then seen most candidates.
        """
        free = [] if not self.ranks else [SearchTask(0, index, FREE) for index in self.indices]
        runs = [self.runs(arm) for arm in self.arms]
        return free + [
            SearchTask(seeds[number], index, proxy)
            for number in range(self.seeds)
            for index in self.indices
            for of_arm in runs
            for proxy, seeds in of_arm.items()
        ]

    def runs(self, arm: str) -> dict[str, range]:
        """The seeds of the trainings on each proxy of an arm.

        Each proxy has seeds of its own, so that the mean over an arm is one over weights too.
        """
        return {
            proxy: range(number * self.seeds, (number + 1) * self.seeds)
            for number, proxy in enumerate(self.arms[arm])
        }


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """The content of `search.json`.

    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10,
    ... )
    >>> SearchRecord(condensekit="0.1.0", plan=plan, progress={"done": 0}).plan.seeds
    2
    """

    condensekit: str
    """The version that wrote it."""
    plan: SearchPlan
    progress: dict[str, int]
    """Of the trainings, how many are `done`, and the `total`; empty before the first session."""


def change(regime: Regime, **changes: Any) -> Regime:
    """The regime with some settings changed: its own, those of its protocol, or its sizes.

    A value may be a text, which is then converted. Raises `UserError` for an unknown setting or a
    bad value.

    >>> change(Regime(protocol=Protocol(), sizes={"cells": 5}), epochs="20", cells=1).sizes
    {'cells': 1}
    """
    outer = {"statistics"}
    inner = {field.name for field in dataclasses.fields(Protocol)}
    for name in changes:
        if name not in outer | inner | regime.sizes.keys():
            known = sorted(outer | inner | regime.sizes.keys())
            raise unknown("setting of a regime:", name, known)

    def among(names: Collection[str]) -> dict[str, Any]:
        return {name: value for name, value in changes.items() if name in names}

    sizes = {name: read_text(int, value, name) for name, value in among(regime.sizes).items()}
    return dataclasses.replace(
        replaced(regime, among(outer)),
        protocol=replaced(regime.protocol, among(inner)),
        sizes={**regime.sizes, **sizes},
    )


def find_reference(
    space_name: str, column: str, path: str | Path | None, data_dir: str | None
) -> Reference | None:
    """The reference at `path`, or by default the table of the space in the data folder.

    That table is named after the space, such as `nasbench201.csv.gz` or `nasbench201.csv`. Returns
    None if it does not exist or has no such `column`. Raises `UserError` as `load` does.

    >>> find_reference("nasbench201", "cifar10_test", None, data_dir="an/empty/folder") is None
    True
    """
    if path is not None:
        return load(path, space_name)
    for name in (f"{space_name}.csv.gz", f"{space_name}.csv"):
        if (table := Path(data_dir or "data") / name).exists():
            reference = load(table, space_name)
            return reference if column in reference.columns else None
    return None


def record_of(folder: Path) -> Record:
    """The record of the plan in a folder.

    >>> record_of(Path("runs/search")).path.name
    'search.json'
    """
    files = ("ranking.json", "ranking.csv", "reference.csv", "indices.txt", "report.html")
    return Record(folder, FILE, "search", "nas", files)


def write_plan(folder: Path, plan: SearchPlan, **progress: int) -> None:
    """Write `search.json`: the plan, and the progress so far.

    >>> from tempfile import TemporaryDirectory
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=Regime(protocol=Protocol()),
    ...     held_out=100, num_classes=10,
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     write_plan(Path(folder), plan, done=0, total=4)
    ...     load_plan(Path(folder)) == plan
    True
    """
    content = SearchRecord(condensekit=version(), plan=plan, progress=progress)
    record_of(folder).write(plain(content))


def load_plan(folder: Path) -> SearchPlan:
    """The plan that `search.json` in `folder` records.

    Raises `UserError` if there is none, or if another version of condensekit wrote it.

    >>> load_plan(Path("an/empty/folder"))
    Traceback (most recent call last):
    condense.errors.UserError: an/empty/folder holds no search (no search.json): start one ...
    """
    record = record_of(folder)
    place = f"{record.path} is not of this version of condensekit"
    return read(SearchRecord, record.read(), place).plan
