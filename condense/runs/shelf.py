"""Condensed sets, kept by what they are made of: found, gone on with, or made.

`Shelf` names the folder of a set by its content: the dataset, the number of images, the seed and
how it is made. The same set is then made once, however often, and by however many processes, it is
asked for. Sets that someone asks for by a folder of their own are `select_into` and `import_into`.

FOLDER/KEY/         the run folder of a condensation, or of a selection
FOLDER/KEY.seconds  how long it took to make
FOLDER/KEY.lock     held by the process that works on it, while the others wait

The key holds all that decides the set but the code: delete the folder after a method has changed.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.names import place
from condense.data.preprocess import Preprocess, make_preprocess
from condense.errors import UserError
from condense.files import digest
from condense.methods.base import Recipe
from condense.methods.selection import FEATURE_EPOCHS, select
from condense.reading import check_file, read_json
from condense.report.pictures import grid
from condense.runs.job import KeptRecord, RunRecord, record_of
from condense.runs.ranks import Ranks
from condense.runs.rehearsal import rehearse
from condense.runs.report import write_report
from condense.runs.run import condense, resume
from condense.sets import published
from condense.sets.condensed import FILE_NAME, CondensedSet
from condense.sets.exchange import import_set, read_set
from condense.sets.formats import ddranking
from condense.sets.provenance import check_belongs
from condense.settings import plain, read_value, within
from condense.study.record import check_none, locked, write_record
from condense.writing import make_folder, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """How real images are chosen as a set; the arguments of `condense.methods.selection.select`.

    >>> Selection(method="herding", feature_epochs=20).preprocess
    'standard'
    """

    method: str
    """One of `condense.methods.selection.SELECTIONS`."""
    preprocess: str = "standard"
    network: str = "convnet"
    """Whose embeddings the choice is made by; `random` looks at none."""
    feature_epochs: int = FEATURE_EPOCHS
    """Passes over the real images by which that network is trained."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One set: of what and how it is made.

    >>> made = Made(source=Source(name="digits"), ipc=2, how=Selection(method="random"))
    >>> made.to_json()["how"]["method"]
    'random'
    """

    source: Source
    """Where its dataset is. This is no part of the key: the content of the dataset is."""
    ipc: int
    """Images per class, from 1 to the size of the smallest class."""
    how: Recipe | Selection
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return dataclasses.asdict(self) | {"how": self.how.to_json()}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A folder of condensed sets, shared by any number of processes.

    >>> from tempfile import TemporaryDirectory
    >>> how = Selection(method="random")
    >>> with TemporaryDirectory() as folder:
    ...     shelf = Shelf(folder=Path(folder), quiet=True)
    ...     len(shelf.made(Made(source=Source(name="digits"), ipc=2, how=how)))
    20
    """

    folder: Path
    preprocess: Preprocess | None = None
    """A fitted transform that all sets are made under; None fits to each dataset what the recipe
    or the selection names."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`, for what is begun. A run goes on where it was begun."""
    checkpoint_every: int = 200
    """Steps of a condensation between two states that a killed one can go on from."""
    prepare: Callable[[Recipe, Dataset], Recipe] | None = None
    """Called before a condensation begins: makes what the recipe needs beside the dataset, such as
    experts, and returns the recipe that names it. The key is of the recipe as it was."""
    pools: Path | None = None
    """A folder of trained networks that the sets share whose recipes have a pool; None keeps each
    pool with its set."""
    quiet: bool = False

    def made(
        self, made: Made, dataset: Dataset | None = None, *, seconds: float | None = None
    ) -> CondensedSet:
        """The set: read if it is there, gone on with if it was begun, made if not.

        A set that another process works on is waited for. `dataset` is what `made.source` loads,
        where that is not at hand, or a part that no name loads. With `seconds` a recipe takes
        about so long: the speed of its first steps decides how many it does, once, and the run
        records it. Raises what `condense.condense` and `select` raise.

        >>> from tempfile import TemporaryDirectory
        >>> from condense import load_dataset, recipe_for
        >>> tiny = {"steps": 2, "real_batch": 4, "network": "convnet-d2-w8"}
        >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(tiny)
        >>> with TemporaryDirectory() as folder:
        ...     shelf = Shelf(folder=Path(folder), quiet=True)
        ...     made = Made(source=Source(name="digits"), ipc=1, how=recipe)
        ...     digits = load_dataset("digits")
        ...     condensed = shelf.made(made, digits)
        ...     shelf.made(made, digits).fingerprint == condensed.fingerprint  # found
        True
        """
        dataset = dataset or made.source.load()
        folder = self.place(made, dataset, seconds=seconds)
        if not (folder / FILE_NAME).exists():
            with _turn(folder, self.quiet):
                if not (folder / FILE_NAME).exists():  # by another process, while this one waited
                    with _timed(folder):
                        self._work(made, dataset, folder, seconds)
        return CondensedSet.load(folder)

    def place(self, made: Made, dataset: Dataset, *, seconds: float | None = None) -> Path:
        """The folder of the set, made or not: a readable name and a digest of all that decides it.

        >>> from condense import load_dataset
        >>> made = Made(source=Source(name="digits"), ipc=2, how=Selection(method="random"))
        >>> Shelf(folder=Path("sets")).place(made, load_dataset("digits")).name.rsplit("-", 1)[0]
        'random-ipc2-seed0'
        """
        content = [
            dataset.called,
            dataset.fingerprint,
            dataset.classes,
            made.ipc,
            made.seed,
            made.how.to_json(),
            self.preprocess and self.preprocess.fingerprint,
            seconds,
        ]
        method = made.how.method if isinstance(made.how, Selection) else made.how.method.name
        name = f"{method}-ipc{made.ipc}-seed{made.seed}"
        return self.folder / f"{name}-{digest({}, json.dumps(content))[:16]}"

    def seconds(self, made: Made, dataset: Dataset) -> float | None:
        """How long a set took to make, in all sessions that were not killed; None if unknown.

        >>> made = Made(source=Source(name="digits"), ipc=2, how=Selection(method="random"))
        >>> Shelf(folder=Path("sets")).seconds(made, made.source.load())
        """
        return _seconds(self.place(made, dataset))

    def _work(self, made: Made, dataset: Dataset, folder: Path, seconds: float | None) -> None:
        """What is left to do of the set in `folder`, which no other process works on."""
        if isinstance(made.how, Selection):
            options = dataclasses.asdict(made.how) | {"storage": "float32", "device": self.device}
            options["preprocess"] = self.preprocess or made.how.preprocess
            select_into(folder, dataset, made.source, ipc=made.ipc, seed=made.seed, **options)
        elif (folder / "run.json").exists():
            resume(folder, dataset, quiet=self.quiet)
        else:
            condense(
                dataset,
                ipc=made.ipc,
                recipe=self._recipe(made.how, made, dataset, seconds),
                preprocess=self.preprocess,
                seed=made.seed,
                out=folder,
                device=self.device,
                checkpoint_every=self.checkpoint_every,
                source=made.source,
                pools=self.pools,
                quiet=self.quiet,
            )

    def _recipe(
        self, recipe: Recipe, made: Made, dataset: Dataset, seconds: float | None
    ) -> Recipe:
        """The recipe with what it needs, and with the steps that it can do in `seconds`."""
        if self.prepare:
            recipe = self.prepare(recipe, dataset)
        if seconds is None:
            return recipe
        told = rehearse(dataset, ipc=made.ipc, recipe=recipe, seed=made.seed, device=self.device)
        return recipe.override({"steps": max(1, int(seconds / max(told.step, 1e-4)))})


def select_into(
    folder: Path,
    dataset: Dataset,
    source: Source,
    *,
    method: str,
    ipc: int,
    preprocess: str | Preprocess,
    storage: str,
    **how: Any,
) -> CondensedSet:
    """Select `ipc` real images per class by `method` and keep them as a set in `folder`.

    `preprocess` is a transform or the name of one, which is then fitted to `dataset`; `how` are
    further arguments of `condense.methods.selection.select`.

    >>> from tempfile import TemporaryDirectory
    >>> how = {"method": "random", "ipc": 2, "preprocess": "standard", "seed": 0}
    >>> source = Source(name="digits")
    >>> with TemporaryDirectory() as folder:
    ...     kept = {"device": "cpu", "storage": "uint8"}
    ...     len(select_into(Path(folder), source.load(), source, **how, **kept))
    20
    """
    if isinstance(preprocess, str):
        preprocess = make_preprocess(preprocess, dataset)
    chosen = select(method, dataset, ipc, preprocess=preprocess, **how)
    return keep(folder, source, storage, chosen)


def import_into(
    folder: Path,
    path: Path,
    dataset: Dataset,
    source: Source,
    *,
    preprocess: str | None,
    experiment: int,
    storage: str,
) -> CondensedSet:
    """Read the foreign set at `path` by `condense.sets.exchange.import_set`; keep it in `folder`.

    `preprocess` is a name, or `ddranking` for how DD-Ranking standardises images. With None, `path`
    is a set or an export of condensekit, which says all of itself and is kept as it is.
    Raises `UserError` if it is not of the classes and the size of `dataset`.

    >>> from tempfile import TemporaryDirectory
    >>> import numpy
    >>> source = Source(name="digits")
    >>> with TemporaryDirectory() as folder:
    ...     path, digits = Path(folder, "theirs.npz"), source.load()
    ...     images, labels = numpy.zeros((10, 8, 8), "uint8"), numpy.arange(10)[:, None]
    ...     numpy.savez(path, train_images=images, train_labels=labels)
    ...     how = {"preprocess": "standard", "experiment": 0, "storage": "uint8"}
    ...     len(import_into(Path(folder, "ours"), path, digits, source, **how))
    10
    """
    if preprocess is None:
        imported = read_set(path)
    else:
        if not path.is_dir():
            check_file(path)
        theirs = preprocess == "ddranking"
        fit = ddranking.transform(dataset.name) if theirs else make_preprocess(preprocess, dataset)
        imported = import_set(path, dataset.classes, fit, experiment, dataset.called)
    with within(f"cannot import {path}"):
        check_belongs(imported, dataset)
    return keep(folder, source, storage, imported)


def keep(folder: Path, source: Source, storage: str, condensed: CondensedSet) -> CondensedSet:
    """Make `folder` the home of a set that no run made. A folder that holds a run is left alone.

    `source` is where its dataset is, `storage` one of `condense.sets.condensed.STORAGES`. Raises
    `UserError` for a folder that holds a run or is in use.

    >>> from tempfile import TemporaryDirectory
    >>> from condense.data.preprocess import make_preprocess
    >>> source = Source(name="digits")
    >>> digits = source.load()
    >>> transform = make_preprocess("standard", digits)
    >>> chosen = select("random", digits, 1, preprocess=transform, seed=0)
    >>> with TemporaryDirectory() as folder:
    ...     _ = keep(Path(folder), source, "float32", chosen)
    ...     CondensedSet.load(folder).fingerprint == chosen.fingerprint
    True
    """
    with locked(folder):
        begun = record_of(folder)
        if (folder / FILE_NAME).exists() or isinstance(begun, RunRecord):
            raise UserError(f"{folder} already holds a run: choose another --out")
        if begun is None:
            check_none(folder, ("grid.png", "report.html"))
        record = KeptRecord(source=source, provenance=condensed.provenance)
        write_record(folder / "run.json", plain(record))
        grid(condensed, folder / "grid.png")
        condensed.save(folder, storage=storage, alone=False)  # this file says that all is made
        write_report(folder)
    return condensed


def source_of(path: Path, data_dir: str | None = None) -> Source:
    """Where the dataset of the set at `path` is: a run folder, the file in it, or a published name.

    `data_dir` takes the place of the recorded one, if the dataset has moved. Raises `UserError`
    where nothing is recorded beside the set, and where the recorded files are not there any more.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     record = KeptRecord(source=Source(name="cifar10"), provenance={})
    ...     write_record(Path(folder, "run.json"), plain(record))
    ...     source_of(Path(folder), "data").data_dir
    'data'
    """
    if published.is_name(path):
        return Source(name=published.dataset_of(str(path)), data_dir=data_dir)
    record = record_of(path if path.is_dir() else path.parent)
    if record is None:
        raise UserError(
            f"{path} does not say where its dataset is (no run.json beside it): "
            "give --dataset and --data-dir"
        )
    if (recorded := place(record.source.name)) and not recorded.exists():
        raise UserError(f"this run's pictures were at {recorded}: give --dataset")
    return dataclasses.replace(record.source, data_dir=data_dir) if data_dir else record.source


@contextlib.contextmanager
def _timed(folder: Path) -> Iterator[None]:
    """Add the time that is spent inside to the seconds of the set in `folder`."""
    began = time.monotonic()
    try:
        yield
    finally:
        if folder.exists():
            spent = time.monotonic() - began + (_seconds(folder) or 0.0)
            write_json(folder.with_name(f"{folder.name}.seconds"), spent)


def _seconds(folder: Path) -> float | None:
    """How long the set in `folder` took to make, as far as it is known."""
    path = folder.with_name(f"{folder.name}.seconds")
    if not path.exists():
        return None
    return read_value(float, read_json(path), str(path))


@contextlib.contextmanager
def _turn(folder: Path, quiet: bool) -> Iterator[None]:
    """While inside, no other process works on the set in `folder`: one that does is waited for."""
    if Ranks.join().count > 1:
        raise UserError(
            f"several ranks cannot share the sets in {folder.parent}: start one process"
        )
    lock = FileLock(f"{folder}.lock")  # the run itself locks the folder, and would not wait
    try:
        make_folder(folder.parent)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not quiet:
                print(f"waiting for another process to make {folder}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write into {folder.parent}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
