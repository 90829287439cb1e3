"""A search from start to end, in a folder.

A search may be killed at any time. When it is resumed, it ends with the same ranking.

search.json    all settings (space, candidates, proxies, regime, dataset), and the progress
trials.sqlite  every training, written as it finishes; searches may share a `store` instead

`nas.results` describes the files of the results.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.data.images import Dataset, Images
from condense.data.own import Own as Given
from condense.data.own import as_dataset
from condense.data.preprocess import make_preprocess
from condense.errors import UserError, unknown
from condense.progress import progress
from condense.study.record import locked
from condense.study.study import Study, as_workers
from condense.study.trials import Trial, Trials, reading
from condense.study.workers import Workers
from nas.own import Networks, Own
from nas.plan import HELD_OUT, SearchPlan, find_reference, load_plan, record_of, write_plan
from nas.proxies import arms_of, make_proxies, names_of, parse, seen_held_out
from nas.ranking import check_column, collect, needs_held_out
from nas.regime import Regime
from nas.results import SearchResult, result_of, store_path, truth_of, write_result
from nas.sampling import Only, Sample, candidates
from nas.spaces import space
from nas.training import FREE_BATCH, SearchBench
from nas.watch import watched

_TESTED = ""
"""Stands in place of the column to rank by for networks that are tested instead."""


def search(
    dataset: Dataset | Given,
    *,
    space_name: Any,
    out: str | Path,
    workers: Workers | int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    again: bool = False,
    **choices: Any,
) -> SearchResult:
    """Rank candidates of a space by training them on proxies of `dataset`.

    Parameters
    ----------
    dataset: what `load_dataset` gives, or any dataset that `as_dataset` takes.
    space_name: one of `nas.spaces.SPACES`, or a space itself; see `nas.spaces.space`.
    out: the folder of the search.
    workers: what the trainings run on: `condense.study.workers.Workers`, or a number of processes.
    minutes: a time limit. What is finished by then is kept, and `resume` continues.
    again: go on where the folder already holds this search, in place of an error.

    Further parameters, each with a default
    ---------------------------------------
    proxies: the names of the proxies; see `nas.proxies`. By default `random` alone.
    sample: the number of candidates, a text such as `top20:100`, or a list of their indices or
        names; see `nas.sampling`.
    only: the values that factors of the space may have, such as `{"depth": ["1", "2"]}`.
    seeds: trainings of each candidate on each proxy, by default 3.
    seed: draws the candidates, by default 0.
    regime: how candidates are trained; by default as the `REGIME` of the space says. Use
        `nas.plan.change` to change some of it.
    held_out: the number of training images to score by; by default 1,000, or none if `by` is
        made of training losses and of what is free. Test images are never used.
    by: the column to rank by, such as `random summed_loss`, or several joined by ` + `, whose ranks
        are averaged; by default the first arm's column for the `SCORE` of the space. All columns
        are reported.
    reference: a table of accuracies after full training (see `nas.reference`); by default the table
        of the space in the data folder, if there is one.
    truth: the column of that table that the ranking is judged by; by default the test accuracies of
        the dataset. A ranking on CIFAR-10 can be judged by `cifar100_test`.
    source: where the dataset can be loaded from again; by default its name.
    store: a file of trainings that is shared with other searches.

    Raises `UserError` for bad input, and for a folder that already holds a search. Raises
    `Interrupted` after Ctrl-C; what is finished is then kept.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> from condense.training.protocol import Protocol
    >>> with TemporaryDirectory() as out:
    ...     result = search(
    ...         load_dataset("digits"), space_name="convnet720", out=out, proxies=["random:1"],
    ...         sample=[0, 1], seeds=1, regime=Regime(protocol=Protocol(epochs=1)), held_out=100,
    ...         workers=Workers(workers=0), quiet=True,
    ...     )
    >>> result.done, len(result.ranking)
    (4, 2)
    """
    _check_choices(choices, given=("space_name", "out", "again"))
    (workers := _workers(workers)).check()
    plan, bench = planned(as_dataset(dataset), space_name=space_name, **choices)
    folder = Path(out)
    with locked(folder):
        record = record_of(folder)
        begun = again and record.exists()
        (record.check_same if begun else record.check_free)({"plan": dataclasses.asdict(plan)})
        return _go_on(folder, plan, bench, workers, minutes, quiet)


def rank(
    networks: Networks,
    *,
    proxy: str | Path | Sequence[str | Path] = "random",
    dataset: Dataset | Given,
    out: str | Path = "runs/nas-own",
    **choices: Any,
) -> SearchResult:
    """Rank networks of your own by training them on proxies of `dataset`.

    Parameters
    ----------
    networks: for each name a function that makes the network with its own fresh weights. It has no
        arguments, or takes the image shape and the number of classes. The network takes images of
        the dataset's shape, normalised, and returns a logit for each of its classes. Worker
        processes call the function too.
    proxy: one or several proxies; see `nas.proxies`. A condensed set is given by its file or run
        folder, such as `runs/mine`.
    dataset: what `load_dataset` gives, or any dataset that `as_dataset` takes.
    out: the folder of the ranking. Called again with the same networks and choices, it goes on.
    choices: what `nas.search.search` takes: seeds, regime, by, held_out, workers, minutes, store,
        quiet.

    In all columns of `found.ranking` higher is better: losses have their sign turned.

    A training is kept by the name of its network and by the layers that PyTorch prints, and not by
    the code: after a change of `forward` take another name or another folder.

    Raises `UserError` if a function fails or its network does not fit the dataset, and what
    `search` raises.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> from nas import rank
    >>> from torch import nn
    >>> def flat(width):
    ...     hidden = nn.Linear(64, width)
    ...     return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(width, 10))
    >>> with TemporaryDirectory() as out:
    ...     found = rank(
    ...         {"small": lambda: flat(8), "wide": lambda: flat(32)}, proxy="random:1",
    ...         dataset=load_dataset("digits"), out=out, seeds=1, workers=0, quiet=True,
    ...     )
    >>> sorted(row["arch"] for row in found.ranking.rows())
    ['small', 'wide']
    """
    _check_choices(choices, given=("space_name", "proxies", "again"))
    dataset = as_dataset(dataset)
    own = Own.of(networks, dataset)
    return search(dataset, space_name=own, out=out, proxies=proxy, again=True, **choices)


def _check_choices(choices: Mapping[str, Any], given: Collection[str]) -> None:
    """Raise `UserError` for a choice that `search` lacks, or that is `given` in another way."""
    taken = {**signature(search).parameters, **signature(planned).parameters}
    known = [
        name for name, one in taken.items() if one.kind is one.KEYWORD_ONLY and name not in given
    ]
    for name in choices:
        if name not in known:
            raise unknown("parameter", name, known)


def _workers(given: Workers | int | None) -> Workers:
    return Workers() if given is None else as_workers(given)


def train_reference(
    dataset: Dataset,
    *,
    space_name: str,
    images: int | None = None,
    seeds: int = 1,
    regime: Regime | None = None,
    **others: Any,
) -> SearchResult:
    """Train candidates on real images and test them: the truth by which searches are judged.

    The table is written to `reference.csv` in the folder `out`. It can be no better than its number
    of images and epochs allow.

    Parameters
    ----------
    images: the number of training images, stratified; by default all that are not held out.
    seeds: trainings of each candidate.
    regime: how candidates are trained; by default as the `REFERENCE_REGIME` of the space says.

    All other parameters, and the errors, are those of `search`.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> from condense.training.protocol import Protocol
    >>> with TemporaryDirectory() as out:
    ...     result = train_reference(
    ...         load_dataset("digits"), space_name="convnet720", out=out, sample=[0, 1], images=50,
    ...         regime=Regime(protocol=Protocol(epochs=1)), held_out=100,
    ...         workers=Workers(workers=0), quiet=True,
    ...     )
    ...     Path(out, "reference.csv").read_text().split()[0]
    'index,arch,digits_valid,digits_test,n_seeds,diverged'
    """
    proxies = [f"whole:{images}" if images else "whole"]
    regime = regime or space(space_name).REFERENCE_REGIME
    others |= {"proxies": proxies, "seeds": seeds, "regime": regime, "by": _TESTED}
    return search(dataset, space_name=space_name, **others)


def resume(
    out: str | Path,
    dataset: Dataset | Given = None,
    *,
    workers: Workers | int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> SearchResult:
    """Continue the search in the folder `out`.

    `dataset` is needed only if no name loads it. Raises `UserError` if the folder holds no search,
    or if the dataset or a proxy has changed, and what `search` raises.

    >>> resume("an/empty/folder")
    Traceback (most recent call last):
    condense.errors.UserError: an/empty/folder holds no search (no search.json): start one ...
    """
    folder = Path(out)
    plan = load_plan(folder)
    if plan.own:
        raise UserError(f"{folder} ranks networks of a script: call nas.rank again to go on")
    with locked(folder):
        dataset = plan.source.load() if dataset is None else as_dataset(dataset)
        if dataset.fingerprint != plan.fingerprint:
            raise UserError(
                f"{folder} searches on {plan.source.name} with content {plan.fingerprint}, "
                f"but {dataset.name} now has content {dataset.fingerprint}"
            )
        bench = _bench(plan, dataset)
        if changed := [
            name for name, recipe in plan.recipes.items() if bench.keys.recipes.get(name) != recipe
        ]:
            raise UserError(
                f"{folder} was begun with another proxy `{changed[0]}` than is there now: "
                "put it back or start a new search"
            )
        return _go_on(folder, plan, bench, _workers(workers), minutes, quiet)


def show(out: str | Path) -> SearchResult:
    """What the search in the folder `out` has found so far; it may still be running.

    Raises `UserError` if the folder holds no search.

    >>> show("an/empty/folder")
    Traceback (most recent call last):
    condense.errors.UserError: an/empty/folder holds no search (no search.json): start one ...
    """
    folder = Path(out)
    plan = load_plan(folder)
    with reading(store_path(folder, plan)) as store:
        return result_of(folder, plan, store)


def planned(
    dataset: Dataset,
    *,
    space_name: Any,
    proxies: str | Path | Sequence[str | Path] = ("random",),
    sample: Sample = None,
    only: Only | None = None,
    seeds: int = 3,
    seed: int = 0,
    regime: Regime | None = None,
    held_out: int | None = None,
    by: str | None = None,
    reference: str | Path | None = None,
    truth: str | None = None,
    source: Source | None = None,
    store: str | Path | None = None,
) -> tuple[SearchPlan, SearchBench]:
    """The plan of a new search, and what its trainings share; see `search` for the parameters.

    >>> from condense import load_dataset
    >>> planned(load_dataset("digits"), space_name="convnet720", sample=[0])[0].held_out
    1000
    """
    module, proxies = space(space_name), names_of(proxies)
    source, table = source or Source(name=dataset.name), None
    judged_by = truth or f"{dataset.name}_test"
    own = {} if isinstance(space_name, str) else space_name.identities
    if by != _TESTED and not own:
        table = find_reference(space_name, judged_by, reference, source.data_dir)
    if truth and table is None:
        raise UserError(f"--truth {truth} is a column of a table: name it with --reference")
    indices = candidates(space_name, sample, seed, only=only, reference=table, truth=judged_by)
    if table is not None:
        table.values(judged_by, indices)  # raises now, and not after the trainings
    arms = arms_of(parse(proxies))
    by = f"{next(iter(arms))} {module.SCORE}" if by is None else by
    if held_out is None:
        held_out = HELD_OUT if needs_held_out(by) or by == _TESTED else 0
    plan = SearchPlan(
        space=module.NAME,
        own=own,
        source=source,
        fingerprint=dataset.fingerprint,
        proxies=proxies,
        indices=indices,
        seeds=seeds,
        regime=regime or module.REGIME,
        held_out=held_out,
        num_classes=len(dataset.classes),
        arms=arms,
        sample=sample if isinstance(sample, str) else "",
        by=by,
        reference=table.source if table else None,
        truth=judged_by,
        store=str(store) if store else None,
    )
    if plan.ranks:
        check_column(by, plan.arms, held_out)
    bench = _bench(plan, dataset, module if own else None)
    plan = dataclasses.replace(plan, recipes=bench.keys.recipes)
    if held_out:
        seen = seen_held_out(proxies, dataset.hold_out(held_out, seed=0))
        plan = dataclasses.replace(plan, seen=seen)
    return plan, bench


def _bench(plan: SearchPlan, dataset: Dataset, own: Any = None) -> SearchBench:
    """What the trainings of the search share; `own` are candidates that a user brings.

    All searches hold out the same images, so that they can share a store.
    """
    rest = dataset
    if plan.held_out:
        rest = dataset.hold_out(plan.held_out, seed=0)
    preprocess = make_preprocess("standard", rest)
    module = own or space(plan.space)
    for index in plan.indices:
        # Raises now, and not after the first trainings, if the images are too small.
        module.architecture(index).parameters(dataset.shape, len(dataset.classes))
    return SearchBench(
        space=own or plan.space,
        num_classes=len(dataset.classes),
        regime=plan.regime,
        proxies=make_proxies(plan.proxies, dataset, rest, preprocess, plan.regime.protocol),
        held_out=rest.test if plan.held_out else _few(dataset),
        scored=plan.held_out > 0,
        preprocess=preprocess,
        test=None if plan.ranks else dataset.test,
    )


def _few(dataset: Dataset) -> Images:
    """Training images for the baselines, where none are held out."""
    count = min(FREE_BATCH, int((dataset.train.counts() - 1).sum()))
    return dataset.hold_out(count, seed=0).test


def _go_on(
    folder: Path,
    plan: SearchPlan,
    bench: SearchBench,
    workers: Workers,
    minutes: float | None,
    quiet: bool,
) -> SearchResult:
    """Do the trainings that are not in the store yet, and write the results."""
    truth = truth_of(plan)
    with Trials(store_path(folder, plan)) as store:
        write_plan(folder, plan)
        study = Study(store, plan.tasks(), plan.keys.of)
        if plan.ranks:
            look = partial(collect, plan, store, truth)
            shown = watched(plan.space, study.total, study.done, look, quiet=quiet)
        else:
            shown = progress(plan.space, study.total, study.done, quiet=quiet)
        with shown as report:
            how = f"go on with `condensekit nas --resume {folder}`"

            def told(done: int, trial: Trial) -> None:
                report(done)

            study.work(bench, workers, told, how_to_go_on=how, minutes=minutes)
        return write_result(folder, plan, store)
