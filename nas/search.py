"""A search from start to end in a folder: started once, killed at will, resumed to the same ranking.

search.json        everything resolved: space, candidates, proxies, regime, dataset; and how far it is
trials.sqlite      every training, written as it finishes (or in `store`, which several searches may share)
ranking.csv/.json  the candidates, best first, with every score and, where there is a reference, how far each can be trusted
scatter-*.png      each proxy's scores against the truth
report.html        all of it to look at
reference.csv      what a reference run makes, in place of a ranking: the truth that other searches are compared with
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.errors import UserError, unknown
from condense.progress import progress
from condense.study.record import locked
from condense.study.study import Study
from condense.study.trials import Trials
from condense.study.workers import Workers
from nas import ranking
from nas.plan import (
    HELD_OUT,
    SearchPlan,
    candidates,
    find_reference,
    load_plan,
    record_of,
    write_plan,
)
from nas.proxies import make_proxies, seen_held_out
from nas.ranking import Ranking, collect
from nas.reference import OFFICIAL, OFFICIAL_SPACE, Reference, load
from nas.regime import Regime
from nas.report import watched, write_report
from nas.spaces import space
from nas.training import SearchBench, SearchTask


@dataclass(frozen=True)
class SearchResult:
    """How far a search is, and what it has found."""

    folder: Path
    done: int
    total: int
    ranking: Ranking | None
    """None for a reference run."""
    notes: tuple[str, ...]
    """What one should know: what could not be checked and how to, what diverged, what is missing."""


def search(
    dataset: Dataset,
    *,
    space_name: str,
    out: str | Path,
    proxies: Sequence[str] = ("random",),
    sample: int | Sequence[int] | None = None,
    seeds: int = 3,
    seed: int = 0,
    regime: Regime | None = None,
    held_out: int = HELD_OUT,
    by: str | None = None,
    reference: str | Path | None = None,
    source: Source | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> SearchResult:
    """Rank candidates of a space by training them on proxies of `dataset`; the results are kept in the folder `out`.

    Parameters
    ----------
    proxies: condensed sets by path, `random[:IPC]`, `early-stop[:STEPS]`, `whole[:IMAGES]` (see `nas.sets`).
    sample: how many candidates, drawn from `seed` (stratified in convnet720); 0 for all; or their indices.
    seeds: trainings of each candidate on each proxy.
    regime: how they are trained; the default is the `REGIME` of the space, `change` changes it.
    held_out: training images set apart to score by. Test images are never looked at.
    by: the column that ranks, as `random summed_loss`; the first proxy's `SCORE` unless told. All are reported.
    reference: a table of trained accuracies (`nas.reference`); without, one named after the space in the data folder.
    store: a file of trainings to share with other searches.
    minutes: stop after that long; what is finished is kept, and `resume` goes on.

    Raises `UserError` for bad input and for a folder that holds a search already, `Interrupted` on Ctrl-C, all finished kept.
    """
    indices = candidates(space_name, sample, seed)
    source = source or Source(name=dataset.name)
    table = find_reference(space_name, dataset.name, reference, source.data_dir)
    if table is not None:
        table.truth(dataset.name, indices)  # gaps show before the first training
    plan = SearchPlan(
        space=space_name,
        source=source,
        fingerprint=dataset.fingerprint,
        proxies=tuple(proxies),
        indices=indices,
        seeds=seeds,
        regime=regime or space(space_name).REGIME,
        held_out=held_out,
        num_classes=len(dataset.classes),
        by="to be known",
        reference=table.source if table else None,
        store=str(store) if store else None,
    )
    bench = _bench(plan, dataset)
    known = ranking.column_names(bench.proxies)
    by = by or f"{next(iter(bench.proxies))} {space(space_name).SCORE}"
    if by not in known:
        raise unknown("score to rank by:", by, known)
    seen = seen_held_out(proxies, dataset.hold_out(held_out, seed=0))
    plan = dataclasses.replace(plan, by=by, recipes=bench.keys.recipes, seen=seen)
    return _start(Path(out), plan, bench, workers, minutes, quiet)


def train_reference(
    dataset: Dataset,
    *,
    space_name: str,
    out: str | Path,
    sample: int | Sequence[int] | None = None,
    seeds: int = 1,
    seed: int = 0,
    images: int | None = None,
    regime: Regime | None = None,
    held_out: int = HELD_OUT,
    source: Source | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> SearchResult:
    """Train candidates on real images and test them: the truth, written to `out`/reference.csv, that searches are judged by.

    `images` training images, stratified, or all that are not held out; else as for `search`. What the table says is
    what this many images and epochs say.
    """
    plan = SearchPlan(
        space=space_name,
        source=source or Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        proxies=(f"whole:{images}" if images else "whole",),
        indices=candidates(space_name, sample, seed),
        seeds=seeds,
        regime=regime or space(space_name).REFERENCE_REGIME,
        held_out=held_out,
        num_classes=len(dataset.classes),
        store=str(store) if store else None,
    )
    bench = _bench(plan, dataset)
    plan = dataclasses.replace(plan, recipes=bench.keys.recipes)
    return _start(Path(out), plan, bench, workers, minutes, quiet)


def resume(
    out: str | Path,
    dataset: Dataset | None = None,
    *,
    workers: Workers | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> SearchResult:
    """Go on with the search in the folder `out`; `dataset` only where it has no name to load it by."""
    folder = Path(out)
    plan = load_plan(folder)
    with locked(folder):
        dataset = dataset or plan.source.load()
        if dataset.fingerprint != plan.fingerprint:
            raise UserError(
                f"{folder} searches on {plan.source.name} with content {plan.fingerprint}, "
                f"but {dataset.name} found now has content {dataset.fingerprint}"
            )
        bench = _bench(plan, dataset)
        if changed := [
            name for name, recipe in plan.recipes.items() if bench.keys.recipes.get(name) != recipe
        ]:
            raise UserError(
                f"{folder} was begun with another proxy `{changed[0]}` than is there now: put it back or start anew"
            )
        return _go_on(folder, plan, bench, workers or Workers(), minutes, quiet)


def show(out: str | Path) -> SearchResult:
    """What the search in the folder `out` has found so far; it may be running."""
    folder = Path(out)
    plan = load_plan(folder)
    with Trials(_store(folder, plan)) as store:
        return _found(folder, plan, store)


def describe(
    space_name: str,
    key: int | str,
    shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
) -> dict[str, Any]:
    """An architecture by its index or name: index, name, parameters, FLOPs, and what its space adds.

    >>> describe("nasbench201", 6111)["isomorph"]
    6111
    """
    found = space(space_name).architecture(key)
    return {
        "space": space_name,
        "index": found.index,
        "name": found.name,
        "parameters": found.parameters(shape, num_classes),
        "flops": found.flops(shape, num_classes),
        **found.facts(),
    }


def _bench(plan: SearchPlan, dataset: Dataset) -> SearchBench:
    """What the trainings share. The split is one for all searches, so that they can share a store."""
    if plan.seeds < 1:
        raise UserError(f"--seeds {plan.seeds}: it must be 1 or more")
    rest = dataset.hold_out(plan.held_out, seed=0)
    preprocess = make_preprocess("standard", rest)
    module = space(plan.space)
    for index in plan.indices:  # images too small for a candidate show now
        module.architecture(index).parameters(dataset.shape, len(dataset.classes))
    return SearchBench(
        space=plan.space,
        num_classes=len(dataset.classes),
        regime=plan.regime,
        proxies=make_proxies(plan.proxies, dataset, rest, preprocess, plan.regime.protocol),
        held_out=rest.test,
        preprocess=preprocess,
        test=None if plan.ranks else dataset.test,
    )


def _start(
    folder: Path,
    plan: SearchPlan,
    bench: SearchBench,
    workers: Workers | None,
    minutes: float | None,
    quiet: bool,
) -> SearchResult:
    (workers := workers or Workers()).check()
    with locked(folder):
        record_of(folder).check_free({"plan": dataclasses.asdict(plan)})
        return _go_on(folder, plan, bench, workers, minutes, quiet)


def _go_on(
    folder: Path,
    plan: SearchPlan,
    bench: SearchBench,
    workers: Workers,
    minutes: float | None,
    quiet: bool,
) -> SearchResult:
    """Train what is not in the store yet, and write what was found."""
    truth = _truth(plan)
    with Trials(_store(folder, plan)) as store:
        write_plan(folder, plan)
        study = Study(store, plan.tasks(), plan.keys.of)
        if plan.ranks:
            look = partial(_ranking, plan, store, truth)
            shown = watched(plan.space, study.total, study.done, look, quiet=quiet)
        else:
            shown = progress(plan.space, study.total, study.done, quiet=quiet)
        with shown as tell:
            study.work(
                bench,
                workers,
                lambda done, trial: tell(done),
                how_to_go_on=f"go on with `nas --resume {folder}`",
                minutes=minutes,
            )
        return _write(folder, plan, store)


def _write(folder: Path, plan: SearchPlan, store: Trials) -> SearchResult:
    """Results and how far they are, to the folder."""
    found = _found(folder, plan, store)
    write_plan(folder, plan, done=found.done, total=found.total)
    if found.ranking is None:
        table = _reference(plan, store)
        if any(np.isfinite(values).any() for values in table.columns.values()):
            table.save(folder / "reference.csv")
    elif len(found.ranking):
        found.ranking.save(folder)
        write_report(folder, found.ranking, found.notes, _facts(plan))
    return found


def _found(folder: Path, plan: SearchPlan, store: Trials) -> SearchResult:
    study = Study(store, plan.tasks(), plan.keys.of)
    done, total = study.done, study.total
    result = _ranking(plan, store, _truth(plan)) if plan.ranks else None
    return SearchResult(folder, done, total, result, tuple(_notes(plan, result, done, total)))


def _notes(plan: SearchPlan, result: Ranking | None, done: int, total: int) -> list[str]:
    notes = []
    if done < total:
        notes.append(f"{total - done} of {total} trainings are still to be made: resume the search")
    if result is None:
        return notes
    if result.truth is None:
        how = (
            "put nasbench201.csv.gz into the data folder, or make it of the official file by `nas convert`"
            if plan.space == OFFICIAL_SPACE and f"{plan.source.name}_test" in OFFICIAL
            else f"train one: `nas reference --space {plan.space} --dataset {plan.source.name}`, and pass it by --reference"
        )
        notes.append(
            f"no reference for {plan.source.name}: this is a ranking, but nothing here says how far it can be trusted; {how}"
        )
    if plan.seen:
        notes.append(
            f"{', '.join(plan.seen)}: condensed from images that include those held out to score by, which flatters accuracy and "
            f"held_loss; condense with --hold-out {plan.held_out} to be strict"
        )
    for proxy, counts in result.diverged.items():
        if counts.any():
            notes.append(
                f"{proxy}: {counts.sum():.0f} trainings of {(counts > 0).sum()} architectures diverged; a score is the mean of "
                "the others, and an architecture without any ranks last"
            )
    return notes


def _ranking(plan: SearchPlan, store: Trials, truth: NDArray[np.float64] | None) -> Ranking:
    return collect(store, plan.keys, plan.indices, plan.seeds, plan.by, truth)


def _truth(plan: SearchPlan) -> NDArray[np.float64] | None:
    return (
        load(plan.reference, plan.space).truth(plan.source.name, plan.indices)
        if plan.reference
        else None
    )


def _reference(plan: SearchPlan, store: Trials) -> Reference:
    """The table of what is trained so far: means over the seeds, in percent. A network that diverged is at chance."""
    module, name, keys = space(plan.space), plan.source.name, plan.keys
    columns = {f"{name}_{split}": np.full(module.SIZE, np.nan) for split in ("valid", "test")}
    columns |= {"n_seeds": np.full(module.SIZE, np.nan), "diverged": np.full(module.SIZE, np.nan)}
    (proxy,) = keys.proxies
    stored = {key: trial.result["scores"] for key, trial in store.find(keys.kind).items()}
    for index in plan.indices:
        runs = [
            run
            for seed in range(plan.seeds)
            if (run := stored.get(keys.of(SearchTask(seed, index, proxy))))
        ]
        if not runs:
            continue
        for split, score in (("valid", "accuracy"), ("test", "test")):
            values = [1 / plan.num_classes if run["diverged"] else run[score] for run in runs]
            columns[f"{name}_{split}"][index] = 100 * float(np.mean(values))
        columns["n_seeds"][index], columns["diverged"][index] = (
            len(runs),
            sum(run["diverged"] for run in runs),
        )
    return Reference(plan.space, "this run", columns)


def _store(folder: Path, plan: SearchPlan) -> Path:
    return Path(plan.store) if plan.store else folder / "trials.sqlite"


def _facts(plan: SearchPlan) -> dict[str, Any]:
    return {
        "space": plan.space,
        "dataset": f"{plan.source.name} ({plan.fingerprint})",
        "candidates": len(plan.indices),
        "trainings of each on each proxy": plan.seeds,
        "held-out training images": plan.held_out,
        "reference": plan.reference or "none",
        "proxies": {name: " ".join(recipe) for name, recipe in plan.recipes.items()},
    }
