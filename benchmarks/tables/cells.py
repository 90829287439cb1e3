"""What a table is made of: condensed sets, and networks trained on them, each made once and kept under its content.

A work folder holds

sets/KEY/           a set, as `condense.runs.shelf` keeps it
scores/KEY.json     the accuracies of networks trained on one set by one protocol
experts/KEY/        the expert trajectories that MTT needs

A key is a hash of everything the result depends on but the code: delete the folder after a method has changed. A command that
was killed goes on from the last checkpoint and the last network; tables share what they have in common.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from condense import (
    CondensedSet,
    Protocol,
    Recipe,
    Score,
    UserError,
    load_dataset,
)
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.device import pick_device
from condense.files import read_json, write_json
from condense.methods import MTT
from condense.progress import progress
from condense.randomness import derive
from condense.runs.shelf import Made, Shelf
from condense.training.evaluate import check_belongs, train_many
from condense.training.experts import Training, train_experts


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """How a set is judged: `repeats` networks, tested on the whole test set."""

    network: str
    protocol: Protocol
    repeats: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One accuracy of a table."""

    row: str
    column: str
    sets: tuple[Made, ...]
    """The same but for the seed."""
    trained: Trained


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an entry."""

    score: Score | None
    """Over the sets whose networks are all trained."""
    missing: int
    """Sets not yet made, or not all their networks trained."""
    failed: str = ""
    """Why a set could not be made."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "score": self.score and self.score.to_json(),
            "missing_sets": self.missing,
            "failed": self.failed,
        }


class Work:
    """The folder where sets and scores are kept."""

    def __init__(self, folder: Path, data_dir: str | None = None, device: str = "auto") -> None:
        self.folder, self._data_dir, self.device = folder, data_dir, pick_device(device)
        self.dataset = cache(self._load)
        self._tests: dict[str, Tensor] = {}
        self._shelf = Shelf(
            folder=folder / "sets", device=self.device.type, prepare=self.with_experts
        )

    def condensed(self, made: Made) -> CondensedSet:
        """The set: read, gone on with, or made."""
        dataset = self.dataset(made.source)
        source = dataclasses.replace(made.source, data_dir=self._data_dir)
        return self._shelf.made(dataclasses.replace(made, source=source), dataset)

    def with_experts(self, recipe: Recipe, dataset: Dataset) -> Recipe:
        """`recipe` with the experts it needs, trained first: one for every 50 steps, 100 for the 5,000 published."""
        method = recipe.method
        if not isinstance(method, MTT) or method.experts:
            return recipe
        passes = method.max_start - 1 + method.expert_passes
        training = Training(
            network=recipe.network,
            preprocess=recipe.preprocess,
            augment=recipe.augment,
            passes=passes,
        )
        folder = (
            self.folder / "experts" / _digest([dataset.fingerprint, dataclasses.asdict(training)])
        )
        train_experts(
            dataset, training, max(1, recipe.steps // 50), folder, device=self.device.type
        )
        return recipe.override({"experts": str(folder)})

    def accuracies(self, made: Made, trained: Trained) -> list[float]:
        """Of the networks that have been trained on the set so far."""
        path = self._scores(made, trained)
        return read_json(path)["accuracies"][: trained.repeats] if path.exists() else []

    def train(self, made: Made, trained: Trained) -> None:
        """Train what is missing of the networks, keeping each."""
        accuracies = self.accuracies(made, trained)
        if len(accuracies) == trained.repeats:
            return
        condensed, dataset = self.condensed(made), self.dataset(made.source)
        check_belongs(condensed, dataset)
        networks = train_many(
            trained.network,
            condensed,
            (self._test(dataset, condensed.preprocess), dataset.test.labels.to(self.device)),
            trained.repeats,
            trained.protocol,
            derive(made.seed, "tables"),
            self.device,
            first=len(accuracies),
        )
        began = time.monotonic()
        with progress("networks", trained.repeats, len(accuracies)) as told:
            for value in networks:
                accuracies.append(value)
                seconds = round(time.monotonic() - began, 2)
                about = {
                    "made": made.to_json(),
                    "trained": dataclasses.asdict(trained),
                    "seconds_since_started": seconds,
                }
                write_json(self._scores(made, trained), {**about, "accuracies": accuracies})
                told(len(accuracies), f"{value:.1%}")

    def adopt(self, entries: Iterable[Entry], records: Iterable[dict[str, Any]]) -> None:
        """Take the scores of finished campaign jobs for those sets of `entries` that they made and judged in the same way."""
        known = {
            _origin(record["dataset"], record["ipc"], record["seed"], record["recipe"]): record
            for record in records
        }
        for entry in entries:
            judged = {"network": entry.trained.network, "epochs": entry.trained.protocol.epochs}
            for made in entry.sets:
                record = known.get(
                    _origin(made.source.name, made.ipc, made.seed, made.how.to_json())
                )
                if (
                    not record
                    or {"network": record["recipe"]["network"], "epochs": record["epochs"]}
                    != judged
                ):
                    continue
                if len(self.accuracies(made, entry.trained)) < entry.trained.repeats:
                    about = {
                        "made": made.to_json(),
                        "trained": dataclasses.asdict(entry.trained),
                        "campaign": record["name"],
                    }
                    write_json(
                        self._scores(made, entry.trained),
                        {**about, "accuracies": record["score"]["accuracies"]},
                    )

    def found(self, entry: Entry, failed: str = "") -> Found:
        """What is known of an entry, without making anything."""
        if failed:
            return Found(None, len(entry.sets), failed)
        try:
            per_set = [self.accuracies(made, entry.trained) for made in entry.sets]
        except UserError as error:  # no such data here
            return Found(None, len(entry.sets), str(error))
        whole = [accuracies for accuracies in per_set if len(accuracies) == entry.trained.repeats]
        score = (
            Score(tuple(value for accuracies in whole for value in accuracies), len(whole))
            if whole
            else None
        )
        return Found(score, len(per_set) - len(whole))

    def _load(self, source: Source) -> Dataset:
        return load_dataset(source.name, self._data_dir, resolution=source.resolution)

    def _test(self, dataset: Dataset, preprocess: Preprocess) -> Tensor:
        """The test images of a dataset under a transform."""
        key = dataset.fingerprint + preprocess.fingerprint
        if key not in self._tests:
            self._tests[key] = preprocess.apply(dataset.test.pixels).to(self.device)
        return self._tests[key]

    def _scores(self, made: Made, trained: Trained) -> Path:
        key = self._shelf.place(made, self.dataset(made.source)).name
        judged = [key, trained.network, dataclasses.asdict(trained.protocol)]
        return self.folder / "scores" / f"{_digest(judged)}.json"


def lacking(entries: list[Entry], work: Work) -> dict[Entry, str]:
    """The entries whose data is not there, and why; where none has its data, that is a `UserError`."""
    found = {}
    for entry in entries:
        try:
            work.dataset(entry.sets[0].source)
        except UserError as error:
            found[entry] = str(error)
    if len(found) == len(entries):
        raise UserError(next(iter(found.values())))
    return found


def work_through(entries: list[Entry], work: Work, failed: dict[Entry, str]) -> None:
    """Make what is missing of all entries not in `failed`, every first seed before any second; why one fails goes there."""
    for seed in range(max((len(entry.sets) for entry in entries), default=0)):
        for entry in entries:
            if seed >= len(entry.sets) or entry in failed:
                continue
            try:
                work.train(entry.sets[seed], entry.trained)
            except UserError as error:
                failed[entry] = str(error)


def _origin(*facts: Any) -> str:
    return json.dumps(facts, sort_keys=True)


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=10).hexdigest()
