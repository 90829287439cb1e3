"""The entries of a table of accuracies: what each is the mean of, and how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from benchmarks.tables.bench import NetworkTask, TableTask, TableWork, Trained, networks_of
from condense import Score, UserError
from condense.runs.shelf import Made


@dataclass(frozen=True, slots=True)
class Entry:
    """One accuracy of a table."""

    row: str
    column: str
    sets: tuple[Made, ...]
    """The same but for the seed."""
    trained: Trained

    def networks(self, seed: int) -> list[NetworkTask]:
        """The networks on the set of a seed; none where there is no such set."""
        return [
            task for made in self.sets[seed : seed + 1] for task in networks_of(made, self.trained)
        ]


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What is known of an entry."""

    score: Score | None
    """Over the sets whose networks are all trained."""
    missing: int
    """Sets not yet made, or not all their networks trained."""
    failed: str = ""
    """Why a set could not be made, or a network not be trained."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "score": self.score and self.score.to_json(),
            "missing_sets": self.missing,
            "failed": self.failed,
        }


def lacking(entries: Sequence[Entry], work: TableWork) -> dict[Entry, str]:
    """The entries whose data is not there, and why."""
    reasons = {}
    for entry in entries:
        try:
            work.bench.dataset(entry.sets[0].source)
        except UserError as error:
            reasons[entry] = str(error)
    return reasons


def work_through(entries: Sequence[Entry], work: TableWork, failed: dict[Entry, str]) -> None:
    """Make what is missing of all entries not in `failed`, every first seed before any second.

    Of each seed the sets come first. An entry that fails goes into `failed`, with the reason; the
    others go on.
    """
    for seed in range(max(len(entry.sets) for entry in entries)):
        networks = {entry: entry.networks(seed) for entry in entries if entry not in failed}
        left = set(work.study(chain(*networks.values())).left)
        sets = {
            entry: list(dict.fromkeys(task.made for task in tasks if task in left))
            for entry, tasks in networks.items()
        }
        for title, tasks in (("sets", sets), ("networks", networks)):
            of_entries: dict[Entry, list[TableTask]] = {
                entry: [*of_entry] for entry, of_entry in tasks.items() if entry not in failed
            }
            results = work.do(title, chain(*of_entries.values()))
            for entry, of_entry in of_entries.items():
                if reasons := [
                    one["failed"] for task in of_entry if "failed" in (one := results[task])
                ]:
                    failed[entry] = reasons[0]


def results_of(
    entries: Sequence[Entry], work: TableWork, failed: dict[Entry, str]
) -> dict[Entry, EntryResult]:
    """What is known of each entry, without making anything."""
    seeds = {entry: range(len(entry.sets)) for entry in entries if entry not in failed}
    tasks = {entry: [entry.networks(seed) for seed in seeds[entry]] for entry in seeds}
    results = work.study(chain(*chain(*tasks.values()))).results()
    accuracies = {task: one["accuracy"] for task, one in results.items() if "accuracy" in one}
    known = {}
    for entry in entries:
        whole = [
            of_set for of_set in tasks.get(entry, []) if all(map(accuracies.__contains__, of_set))
        ]
        score = (
            Score(tuple(accuracies[task] for task in chain(*whole)), len(whole)) if whole else None
        )
        known[entry] = EntryResult(score, len(entry.sets) - len(whole), failed.get(entry, ""))
    return known
