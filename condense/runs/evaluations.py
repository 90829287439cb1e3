"""Evaluations of sets in run folders: kept there, gone on with, and listed.

RUN/evaluations.sqlite   the accuracy of every network that was trained on the set of this run

An evaluation of several runs keeps the trials of each set in the folder of its own run. A set file
outside a run folder keeps nothing, unless the user names one file for the trials of all sets.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense.networks.accelerate import worth_compiling
from condense.progress import notice, progress, until
from condense.sets.condensed import CondensedSet
from condense.study.study import Store, Study
from condense.study.trials import Key, Trial, Trials, reading
from condense.study.workers import Workers
from condense.training.evaluate import KIND, Evaluation, Task
from condense.training.protocol import PROTOCOLS
from condense.training.score import Score
from condense.words import counted

FILE_NAME = "evaluations.sqlite"  # inside a run folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What an evaluation has measured so far.

    >>> scores = {"mlp": Score((0.5, 0.7))}
    >>> Measured(scores=scores, done=2, total=5, how_to_go_on="the same command goes on").left
    3
    """

    scores: dict[str, Score]
    """By architecture, over the networks that are finished on every set."""
    done: int
    """Networks that are tested, those of earlier sessions included."""
    total: int
    """Networks that were asked for."""
    how_to_go_on: str
    """What to do for the others, for messages."""

    @property
    def left(self) -> int:
        """Networks that are still to be trained."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Row:
    """What networks of one architecture reached that were trained on one set by one protocol.

    >>> import dataclasses
    >>> from condense.training.protocol import Protocol
    >>> protocol, tested_on = dataclasses.asdict(Protocol(epochs=40)), "362 test images of digits"
    >>> row = Row("mlp", protocol, seed=7, tested_on=tested_on, score=Score((0.5, 0.7)))
    >>> row.protocol_text, row.to_json()["mean"]
    ('dm with epochs 40', 0.6)
    """

    network: str
    """The full name."""
    protocol: dict[str, Any]
    """All fields of the `Protocol`."""
    seed: int
    """Derived from the seed of the evaluation and the position of the set in it."""
    tested_on: str
    """In words."""
    score: Score

    @property
    def protocol_text(self) -> str:
        """The name of the nearest protocol, and what differs from it."""
        return protocol_text(self.protocol)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the fields, with those of the score among them."""
        facts = {name: getattr(self, name) for name in ("network", "protocol", "seed", "tested_on")}
        return facts | self.score.to_json()


def protocol_text(protocol: dict[str, Any]) -> str:
    """The name of the protocol that is nearest to these fields of one, and what differs from it.

    >>> import dataclasses
    >>> from condense.training.protocol import Protocol
    >>> protocol_text(dataclasses.asdict(Protocol(epochs=40)))
    'dm with epochs 40'
    """
    changes = {
        name: [
            f"{field} {value}"
            for field, value in protocol.items()
            if value != getattr(named, field, None)
        ]
        for name, named in PROTOCOLS.items()
    }
    nearest = min(changes, key=lambda name: len(changes[name]))
    return " with ".join(filter(None, [nearest, ", ".join(changes[nearest])]))


def measure(
    bench: Evaluation,
    runs: Sequence[str | Path],
    *,
    workers: Workers,
    minutes: float | None = None,
    store: str | Path | None = None,
    quiet: bool = False,
) -> Measured:
    """Train and test what is not in the stores of the runs yet.

    Parameters
    ----------
    runs: where each set of `bench` comes from: a run folder, or a set file.
    minutes: stop after that long, without an error; what is finished is kept.
    store: one file for the trials of all sets, in place of one in each run folder.

    Raises `UserError` for a damaged store and for a device or a cluster that is not there, and
    `Interrupted` on Ctrl-C and SIGTERM.

    >>> from condense import Protocol
    >>> from condense.data.catalogue import Source
    >>> from condense.runs.shelf import Made, Selection, Shelf
    >>> shelf, source = Shelf(folder=Path("shelf"), quiet=True), Source(name="digits")
    >>> wanted, digits = Made(source=source, ipc=1, how=Selection(method="random")), source.load()
    >>> condensed, run = shelf.made(wanted, digits), shelf.place(wanted, digits)
    >>> bench = Evaluation.of(condensed, digits, "mlp", 3, Protocol(epochs=2), seed=0)
    >>> measure(bench, [run], workers=Workers(workers=0), quiet=True).done
    3
    >>> [(row.network, row.score.sets, len(row.score.accuracies)) for row in rows(run, condensed)]
    [('mlp', 1, 3)]
    """
    workers.check()
    kept = store is not None or all(store_of(run) for run in runs)
    lost = "a set outside a run folder keeps nothing: name a file by --store to go on"
    how = "the same command goes on" if kept else lost
    with _opened(bench.sets, runs, store) as trials:
        study = Study(trials, bench.tasks, bench.key)
        if workers.processes() == 0 and workers.cluster is None:
            bench = bench.to(workers.place())
            if not quiet and minutes is None:
                _tell_time(bench, study.left)
        with progress("evaluate", study.total, study.done, quiet=quiet) as report:
            study.work(bench, workers, bench.reporter(report), how_to_go_on=how, minutes=minutes)
        scores = bench.scores(study.results())
        return Measured(scores=scores, done=study.done, total=study.total, how_to_go_on=how)


def _tell_time(bench: Evaluation, left: Sequence[Task]) -> None:
    """Say on stderr how long the networks that are left take, unless they are quick."""
    images = len(bench.sets[0].images) * bench.sets[0].formation ** 2 * len(left)
    pixels = images * bench.sets[0].images[0, 0].numel()
    if worth_compiling(3.0 * bench.protocols[0].epochs * pixels):
        with notice("timing a few steps, to tell how long the evaluation takes", quiet=False):
            seconds = bench.seconds(left)
        print(f"{counted(len(left), 'network')}: {until(seconds)}", file=sys.stderr, flush=True)


def rows(run: str | Path, condensed: CondensedSet) -> list[Row]:
    """What was measured of the set `condensed` of a run folder (or the file in it); none elsewhere.

    Raises `UserError` for a damaged store. The example of `measure` shows a row.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> few = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> rows("nowhere", few)
    []
    """
    file = store_of(run)
    if file is None or not file.exists():
        return []
    with reading(file) as store:
        found = store.find(KIND)
    groups = defaultdict[str, list[tuple[dict[str, Any], Trial]]](list)
    for key, trial in found.items():
        facts = json.loads(key.task)
        if facts.pop("set") == condensed.fingerprint:
            repeat = facts.pop("repeat")
            groups[json.dumps(facts)].append((facts | {"repeat": repeat}, trial))
    return [_row(group) for group in groups.values()]


def _row(group: list[tuple[dict[str, Any], Trial]]) -> Row:
    """The row of trials that differ in the repeat alone."""
    group = sorted(group, key=lambda one: one[0]["repeat"])
    facts, trial = group[0]
    return Row(
        network=facts["network"],
        protocol=facts["protocol"],
        seed=facts["seed"],
        tested_on=trial.result["tested_on"],
        score=Score(tuple(trial.result["accuracy"] for _, trial in group)),
    )


def store_of(run: str | Path) -> Path | None:
    """The store of a run folder, or of the one that a set file is in; None outside run folders.

    >>> store_of("nowhere") is None
    True
    """
    folder = folder_of(run)
    return folder / FILE_NAME if folder else None


def folder_of(run: str | Path) -> Path | None:
    """A run folder, or the one that a set file is in; None outside run folders.

    >>> folder_of("nowhere") is None
    True
    """
    run = Path(run)
    folder = run if run.is_dir() else run.parent
    return folder if (folder / "run.json").exists() else None


@contextmanager
def _opened(
    sets: Sequence[CondensedSet], runs: Sequence[str | Path], store: str | Path | None
) -> Iterator[Store]:
    """The store for the trials of all sets: one file, or one for each set."""
    with ExitStack() as stack:
        if store is not None:
            yield stack.enter_context(Trials(store))
            return
        files = {
            condensed.fingerprint: store_of(run) for condensed, run in zip(sets, runs, strict=True)
        }
        yield _BySet(
            {
                fingerprint: stack.enter_context(Trials(file or ":memory:"))
                for fingerprint, file in files.items()
            }
        )


class _BySet:
    """Several stores as one: a trial is in the store of the set that its network is trained on."""

    def __init__(self, stores: dict[str, Trials]) -> None:
        self._stores = stores

    def add(self, trial: Trial) -> bool:
        """Keep a trial, durably on return."""
        return self._stores[json.loads(trial.key.task)["set"]].add(trial)

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind."""
        return {
            key: trial for store in self._stores.values() for key, trial in store.find(kind).items()
        }

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind."""
        return set[Key]().union(*(store.keys(kind) for store in self._stores.values()))
