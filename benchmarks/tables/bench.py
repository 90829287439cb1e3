"""How the sets and networks of tables are made: each once, and kept under all that decides it.

A work folder holds

sets/KEY/          a set, as `condense.runs.shelf` keeps it
trials.sqlite      the accuracy of every network trained on a set, written as soon as it is tested
experts/KEY/       the expert trajectories that MTT needs
pools/KEY/         the trained networks that some recipes match under

A key holds all that decides a result but the code: delete the folder after a method has changed.
A command that was killed goes on from the last checkpoints and networks, and tables share what they
have in common.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock
from torch import Tensor

from condense import CondensedSet, Protocol, Recipe, UserError
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.device import pick_device
from condense.files import digest
from condense.methods import MTT
from condense.progress import progress
from condense.randomness import derive
from condense.runs.shelf import Made, Shelf
from condense.sets.provenance import check_belongs
from condense.study.study import Study
from condense.study.trials import Key, Trial, Trials
from condense.study.workers import Workers
from condense.training.experts import Training, train_experts
from condense.training.repeats import Repeats

CHECKPOINT_EVERY = 200
"""Steps of a condensation that are lost at most when it is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """How a set is judged: `repeats` networks, tested on the whole test set."""

    network: str
    protocol: Protocol
    repeats: int


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """One of the networks that are trained on a set."""

    made: Made
    """The set."""
    trained: Trained
    repeat: int


TableTask = Made | NetworkTask
"""Making a set is a task too."""


def networks_of(made: Made, trained: Trained) -> list[NetworkTask]:
    """All networks that judge a set."""
    return [NetworkTask(made, trained, repeat) for repeat in range(trained.repeats)]


@dataclass(frozen=True, kw_only=True)
class TableBench:
    """Where sets are, and how they and the networks on them are made: the bench of the studies."""

    folder: Path
    """The work folder; workers on other machines have to see it too."""
    pools: Path
    """The trained networks that sets share."""
    data_dir: str | None = None
    device: str = "auto"
    quiet: bool = False
    """Whether nothing is shown of the progress of a set."""

    @property
    def place(self) -> torch.device:
        """What sets are made and networks trained on."""
        return pick_device(self.device)

    @property
    def shelf(self) -> Shelf:
        """Where the sets are."""
        return Shelf(
            folder=self.folder / "sets",
            device=self.device,
            prepare=self.with_experts,
            pools=self.pools,
            checkpoint_every=CHECKPOINT_EVERY,
            quiet=self.quiet,
        )

    def dataset(self, source: Source) -> Dataset:
        """The dataset, in `data_dir`, loaded once in each process."""
        return _loaded(dataclasses.replace(source, data_dir=self.data_dir))

    def condensed(self, made: Made) -> CondensedSet:
        """The set: read, gone on with, or made."""
        source = dataclasses.replace(made.source, data_dir=self.data_dir)
        return self.shelf.made(dataclasses.replace(made, source=source), self.dataset(source))

    def to(self, device: torch.device) -> Self:
        """The same, to be worked on `device`."""
        return dataclasses.replace(self, device=device.type)

    def key(self, task: TableTask) -> Key:
        """What the trial of a task is called: for a network, all that its accuracy depends on."""
        if isinstance(task, Made):
            return Key.of("table set", set=_name(self, task))
        return Key.of(
            "table network",
            set=_name(self, task.made),
            network=task.trained.network,
            protocol=dataclasses.asdict(task.trained.protocol),
            repeat=task.repeat,
        )

    def name(self, task: TableTask) -> str:
        """A task in a few words, for messages."""
        if isinstance(task, Made):
            return f"the set {_name(self, task)}"
        return f"network {task.repeat + 1} on the set {_name(self, task.made)}"

    def run(self, task: TableTask) -> dict[str, Any]:
        """Do a task: the `accuracy` of a network, nothing for a set, or why it `failed`."""
        try:
            if isinstance(task, Made):
                self.condensed(task)
                return {}
            return {"accuracy": _networks(self, task.made, task.trained).accuracy(task.repeat)}
        except UserError as error:
            return {"failed": str(error)}

    def with_experts(self, recipe: Recipe, dataset: Dataset) -> Recipe:
        """`recipe` with the experts it needs: as published, one for every 50 steps."""
        method = recipe.method
        if not isinstance(method, MTT) or method.experts:
            return recipe
        training = Training(
            network=recipe.network,
            preprocess=recipe.preprocess,
            augment=recipe.augment,
            passes=method.max_start - 1 + method.expert_passes,
        )
        content = json.dumps([dataset.fingerprint, dataclasses.asdict(training)], sort_keys=True)
        folder, count = self.folder / "experts" / digest({}, content), max(1, recipe.steps // 50)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # another worker may be training them
            train_experts(
                dataset, training, count, folder, device=self.place.type, quiet=self.quiet
            )
        return recipe.override({"experts": str(folder)})


class TableTrials(Trials):
    """The store of the networks' accuracies.

    That a set is made, or why something failed, is known to this process alone: a shelf knows its
    sets, and what failed is tried again the next time.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._transient: dict[Key, Trial] = {}

    def add(self, trial: Trial) -> bool:
        """Keep a trial."""
        if "accuracy" in trial.result:
            return super().add(trial)
        self._transient[trial.key] = trial
        return True

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind."""
        transient = {key: trial for key, trial in self._transient.items() if key.kind == kind}
        return super().find(kind) | transient

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind."""
        return super().keys(kind) | {key for key in self._transient if key.kind == kind}


class TableWork:
    """A work folder, the store of its networks, and the workers. Close it.

    store: the file of the networks' accuracies, by default the folder's own. It is made when it is
        first needed, so that bad input leaves nothing behind.
    pools: the folder of the trained networks that sets are matched under, by default in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        data_dir: str | None,
        workers: Workers,
        store: Path | None = None,
        pools: Path | None = None,
    ) -> None:
        workers.check()
        self.workers, self._path = workers, store or folder / "trials.sqlite"
        elsewhere = workers.cluster is not None or workers.processes() > 0
        self.bench = TableBench(
            folder=folder.resolve(),
            pools=(pools or folder / "pools").resolve(),
            data_dir=data_dir and str(Path(data_dir).resolve()),
            device=workers.device,
            quiet=elsewhere,
        )

    @cached_property
    def store(self) -> TableTrials:
        """The store, open."""
        return TableTrials(self._path)

    def study(self, tasks: Iterable[TableTask]) -> Study[TableTask]:
        """What is done of these tasks, and what is left."""
        return Study(self.store, list(dict.fromkeys(tasks)), self.bench.key)

    def do(
        self,
        title: str,
        tasks: Iterable[TableTask],
        watch: Callable[[int, Trial], None] | None = None,
    ) -> dict[TableTask, dict[str, Any]]:
        """Do what is left of these tasks, and return all their results; see `TableBench.run`.

        watch: called after each task, as by `Study.work`. Raises `Interrupted` on Ctrl-C.
        """
        study = self.study(tasks)
        # Sets that are made in this process show their own progress, and there is but one bar.
        shown = self.bench.quiet or not any(isinstance(task, Made) for task in study.tasks)

        with progress(title, study.total, study.done, quiet=not shown) as report:

            def watched(done: int, trial: Trial) -> None:
                report(done, ", ".join(map(_short, trial.result.values())))
                if watch:
                    watch(done, trial)

            how_to_go_on = "the same command goes on"
            study.work(self.bench, self.workers, watched, how_to_go_on=how_to_go_on)
        return study.results()

    def close(self) -> None:
        """Release the store."""
        if "store" in self.__dict__:
            self.store.close()


def _short(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else str(value)


@cache
def _loaded(source: Source) -> Dataset:
    return source.load()


@lru_cache(maxsize=100_000)
def _name(bench: TableBench, made: Made) -> str:
    """What the set is called on the shelf: a digest of all that decides it."""
    return bench.shelf.place(made, bench.dataset(made.source)).name


@lru_cache(maxsize=1)
def _networks(bench: TableBench, made: Made, trained: Trained) -> Repeats:
    """The networks on a set, which share one network in memory. Those of the last set are kept."""
    condensed, dataset = bench.condensed(made), bench.dataset(made.source)
    check_belongs(condensed, dataset)
    name = dataset.fingerprint, condensed.preprocess.fingerprint, bench.place
    if name not in _tests:
        images = condensed.preprocess.apply(dataset.test.pixels)
        _tests[name] = images.to(bench.place), dataset.test.labels.to(bench.place)
    return Repeats(
        trained.network,
        condensed,
        _tests[name],
        trained.repeats,
        trained.protocol,
        derive(made.seed, "tables"),
        bench.place,
    )


_tests: dict[tuple[str, str, torch.device], tuple[Tensor, Tensor]] = {}
"""In each process: the test images of a dataset under a transform, and their labels."""
