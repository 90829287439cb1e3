"""What a search has found so far: its ranking or its reference table, what to know, and the files.

ranking.csv/.json  the candidates, best first, with every score and, with a reference, its agreement
report.html        the ranking as a page, and indices.txt the candidates for its command
reference.csv      made by a reference run in place of a ranking: the truth for other searches
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condense.errors import UserError
from condense.progress import duration
from condense.report.blocks import Report
from condense.report.page import write
from condense.runs.job import environment
from condense.study.study import Study
from condense.study.trials import Trials, reading
from condense.words import counted
from condense.writing import write_bytes
from nas.plan import SearchPlan, load_plan, write_plan
from nas.ranking import Ranking, collect
from nas.reference import OFFICIAL, PUBLISHED, Reference, load
from nas.report import INDICES, command_of, report
from nas.spaces import space
from nas.training import SearchTask


@dataclass(frozen=True)
class SearchResult:
    """The progress of a search, and what it has found so far.

    >>> SearchResult(Path("runs/search"), done=3, total=12, ranking=None, notes=())
    SearchResult runs/search: 3 of 12 trainings
    """

    folder: Path
    done: int
    """Finished trainings."""
    total: int
    """All trainings."""
    ranking: Ranking | None
    """None for a reference run."""
    notes: tuple[str, ...]
    """What a reader should know: what is missing, what diverged, and what could not be checked."""
    seconds: float = 0.0
    """How long the finished trainings took, one after the other."""

    def __repr__(self) -> str:
        ranked = ""
        if self.ranking is not None and len(self.ranking):
            best = self.ranking.rows()[0]["arch"]
            ranked = f", {counted(len(self.ranking), 'architecture')} ranked, the best is {best}"
        trainings = f"{self.done} of {counted(self.total, 'training')}"
        return f"SearchResult {self.folder}: {trainings}{ranked}"


def store_path(folder: Path, plan: SearchPlan) -> Path:
    """The file of the store: the one that the plan names, or one in the folder of the search.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10,
    ... )
    >>> store_path(Path("run"), plan).name
    'trials.sqlite'
    """
    return Path(plan.store) if plan.store else folder / "trials.sqlite"


def result_of(folder: Path, plan: SearchPlan, store: Trials) -> SearchResult:
    """What the trainings in the store say so far about the search in `folder`.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10, arms={"random": ("random",)},
    ...     recipes={"random": ("4567", "epochs=20")},
    ... )
    >>> result_of(Path("run"), plan, Trials(":memory:")).notes
    ('still to be made: 4 of 4 trainings; resume the search',)
    """
    study = Study(store, plan.tasks(), plan.keys.of)
    done, total = study.done, study.total
    ranking = collect(plan, store, truth_of(plan)) if plan.ranks else None
    notes = tuple(_notes(plan, ranking, done, total))
    return SearchResult(folder, done, total, ranking, notes, study.seconds)


def write_result(folder: Path, plan: SearchPlan, store: Trials) -> SearchResult:
    """Write what the search has found so far, and its progress, into `folder`.

    >>> from tempfile import TemporaryDirectory
    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10, arms={"random": ("random",)},
    ...     recipes={"random": ("4567", "epochs=20")},
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     _ = write_result(Path(folder), plan, Trials(":memory:"))
    ...     [path.name for path in Path(folder).iterdir()]
    ['search.json']
    """
    result = result_of(folder, plan, store)
    write_plan(folder, plan, done=result.done, total=result.total)
    if result.ranking is None:
        table = _reference(plan, store)
        if any(np.isfinite(values).any() for values in table.columns.values()):
            table.save(folder / "reference.csv")
    elif len(result.ranking):
        result.ranking.save(folder)
        if not plan.own:
            write_bytes(folder / INDICES, "".join(f"{i}\n" for i in plan.indices).encode())
        write(folder / "report.html", _report(folder, plan, result))
    return result


def report_of(folder: Path) -> Report:
    """What is told of the search in `folder`, as far as it is done.

    Raises `UserError` if it holds no search, or one that ranks nothing yet.

    >>> report_of(Path("nowhere"))
    Traceback (most recent call last):
    condense.errors.UserError: nowhere holds no search (no search.json): start one with ...
    """
    plan = load_plan(folder)
    with reading(store_path(folder, plan)) as store:
        result = result_of(folder, plan, store)
    if result.ranking is None or not len(result.ranking):
        raise UserError(
            f"{folder} has no ranking to show: `condensekit nas show` says how far it is"
        )
    return _report(folder, plan, result)


def _report(folder: Path, plan: SearchPlan, result: SearchResult) -> Report:
    assert result.ranking is not None
    facts = facts_of(plan) | {
        "the trainings took": f"{duration(result.seconds)}, one after the other",
        "versions and machine": environment("cpu"),
    }
    return report(result.ranking, result.notes, facts, folder, command_of(plan, folder))


def truth_of(plan: SearchPlan) -> NDArray[np.float64] | None:
    """The test accuracies of all candidates in [0, 1], or None without a reference.

    Raises `UserError` if the reference cannot be read, or lacks a candidate.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10,
    ... )
    >>> truth_of(plan) is None
    True
    """
    if plan.reference is None:
        return None
    return load(plan.reference, plan.space).values(plan.truth, plan.indices) / 100


def _notes(plan: SearchPlan, ranking: Ranking | None, done: int, total: int) -> list[str]:
    notes = []
    if done < total:
        notes.append(
            f"still to be made: {total - done} of {counted(total, 'training')}; resume the search"
        )
    if ranking is None:
        return notes
    if ranking.truth is None:
        notes.append(
            f"no reference for {plan.source.name}: this is a ranking, but nothing here says "
            f"how far it can be trusted; {_remedy(plan)}"
        )
    if plan.seen:
        notes.append(
            f"{', '.join(plan.seen)}: condensed from images that include those held out to score "
            "by, which flatters accuracy and held_loss; to be strict, condense with "
            f"--hold-out {plan.held_out}"
        )
    if plan.sample.startswith("top"):
        notes.append(
            f"the candidates are from the best {plan.sample.partition(':')[0][3:]} % of the "
            "reference: agreement is about those alone"
        )
    if ranking.repeats:
        alike = ", ".join(f"{later} as {earlier}" for later, earlier in ranking.repeats.items())
        notes.append(f"not shown, since they rank these candidates as another does: {alike}")
    for name, count in ranking.missing.items():
        notes.append(
            f"{name}: no value for {count} of {counted(len(ranking), 'architecture')}, which rank "
            "last by it; some scores need layers of certain kinds, as naswot needs ReLUs"
        )
    for proxy, counts in ranking.diverged.items():
        if counts.any():
            notes.append(
                f"{proxy}: {counted(int(counts.sum()), 'training')} of "
                f"{counted(int((counts > 0).sum()), 'architecture')} diverged; "
                "a score is the mean of the others, and an architecture without any "
                "ranks last"
            )
    return notes


def _remedy(plan: SearchPlan) -> str:
    """How a user can get a reference for the dataset of the plan."""
    if plan.own:
        return "train some of them fully, and compare"
    if plan.space in PUBLISHED and f"{plan.source.name}_test" in OFFICIAL:
        return (
            f"put {plan.space}.csv.gz into the data folder, or make it from the official files of "
            f"{PUBLISHED[plan.space]} with `nas convert`"
        )
    return (
        f"train one with `nas reference --space {plan.space} --dataset {plan.source.name}`, and "
        "pass it with --reference"
    )


def _reference(plan: SearchPlan, store: Trials) -> Reference:
    """The table of the networks that are trained so far.

    Accuracies are means over the seeds, in percent. A network that diverged counts as guessing.
    """
    module, name, keys = space(plan.space), plan.source.name, plan.keys
    splits = ({"valid": "accuracy"} if plan.held_out else {}) | {"test": "test"}
    columns = {f"{name}_{split}": np.full(module.SIZE, np.nan) for split in splits}
    columns |= {"n_seeds": np.full(module.SIZE, np.nan), "diverged": np.full(module.SIZE, np.nan)}
    (proxy,) = keys.proxies
    stored = {key: trial.result["scores"] for key, trial in store.find(keys.kind).items()}
    for index in plan.indices:
        tasks = [SearchTask(seed, index, proxy) for seed in range(plan.seeds)]
        runs = [run for task in tasks if (run := stored.get(keys.of(task)))]
        if not runs:
            continue
        for split, score in splits.items():
            values = [1 / plan.num_classes if run["diverged"] else run[score] for run in runs]
            columns[f"{name}_{split}"][index] = 100 * float(np.mean(values))
        columns["n_seeds"][index] = len(runs)
        columns["diverged"][index] = sum(run["diverged"] for run in runs)
    return Reference(plan.space, "this run", columns)


def facts_of(plan: SearchPlan) -> dict[str, Any]:
    """The settings of a search, for its report.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10,
    ... )
    >>> facts_of(plan)["dataset"]
    'digits (0123)'
    """
    return {
        "space": plan.space,
        "dataset": f"{plan.source.name} ({plan.fingerprint})",
        "candidates": f"{len(plan.indices)} ({plan.sample})" if plan.sample else len(plan.indices),
        "trainings of each on each proxy": plan.seeds,
        "held-out training images": plan.held_out,
        "reference": f"{plan.truth} of {plan.reference}" if plan.reference else "none",
        "proxies": {name: " ".join(recipe) for name, recipe in plan.recipes.items()},
    }
