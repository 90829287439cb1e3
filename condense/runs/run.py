"""A condensation from start to end, by one process or several.

A run may be killed at any time. When it is resumed, it ends with the same bits as if it had never
stopped.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.own import Own, as_dataset
from condense.data.preprocess import Preprocess
from condense.device import pick_device
from condense.errors import UserError, advice
from condense.methods import selection as select
from condense.methods.base import Diverged, Learner, Recipe
from condense.methods.recipes import recipe_for
from condense.networks.build import build
from condense.networks.factories import Factory, adopt
from condense.progress import notice, progress, until
from condense.reading import usable_path
from condense.report.curves import curves
from condense.report.pictures import grid
from condense.runs.job import Checkpoints, Job, check_free, load_record, record
from condense.runs.ranks import Ranks
from condense.runs.rehearsal import fitted, is_short, rehearse
from condense.runs.report import write_report
from condense.runs.setup import make_learner, make_pool, starting_set
from condense.sets.condensed import FILE_NAME, CondensedSet
from condense.settings import require
from condense.study.interrupt import Interrupted, seconds_of, stop_signal, telling
from condense.study.record import locked
from condense.training.pool import Pool
from condense.writing import in_use

__all__ = ["Interrupted", "condense", "resume"]

_LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between looks at the loss. On a GPU, each look has to wait for the device."""

Learned = tuple[Tensor, Tensor, Tensor | None]
"""What a rank has learned, on the host: its classes, their images and, if learned, their labels."""


def condense(
    dataset: Dataset | Own,
    *,
    ipc: int,
    recipe: str | Recipe = "best",
    network: str | Factory | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    chunk: int | None = None,
    checkpoint_every: int = 200,
    storage: str = "float32",
    source: Source | None = None,
    pools: str | Path | None = None,
    quiet: bool = False,
) -> CondensedSet:
    """Condense `dataset` into `ipc` images per class.

    Parameters
    ----------
    dataset: what `load_dataset` gives, or any dataset that `as_dataset` takes: of torch,
        torchvision or Hugging Face, or a pair of arrays.
    recipe: a name of `RECIPES`, or a `Recipe`. The default, `best`, trains a pool of networks
        first, whatever `steps` is: to be quick, give `minutes`, or the recipe `datadam`.
    network: replaces the recipe's network: a name, or a function of the image shape and the number
        of classes that makes a module.
    steps: replaces the recipe's number of steps; the training of a pool stays as long.
    minutes: how long the run may take. The recipe's number of steps, and the training of its pool,
        are chosen to fit; a few steps are timed for that. The run ends in time even if later steps
        are slower.
    preprocess: a fitted transform, in place of the recipe's, which would be fitted to `dataset`.
    out: the run folder, from which the run can be resumed. Without it the run lives in memory.
    device: `auto`, `cpu` or `cuda`.
    chunk: the number of classes that are treated at once; None chooses it.
    checkpoint_every: steps between two checkpoints in the run folder.
    storage: how the images are stored, one of `condense.sets.condensed.STORAGES`.
    source: where the dataset can be loaded from again; by default its name.
    pools: a folder of the pools of networks that runs share; by default, a run trains its own.

    Raises `UserError` for bad input, for a folder that already holds a run, and for a loss that
    diverges. Raises `Interrupted` after Ctrl-C; the state is then saved.

    >>> from condense import load_dataset, recipe_for
    >>> tiny = {"steps": 2, "real_batch": 4, "network": "convnet-d1-w8"}
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(tiny)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, device="cpu", quiet=True)
    CondensedSet: 10 images, (1, 8, 8), 10 classes
    """
    dataset = as_dataset(dataset)
    select.check_count(ipc)
    if isinstance(recipe, str):
        recipe = recipe_for(recipe, dataset.name, dataset.shape, ipc)
    require("recipe", recipe, isinstance(recipe, Recipe), "a name, or a `Recipe`")
    require("preprocess", preprocess, isinstance(preprocess, Preprocess | None), "a transform")
    named = network if network is None or isinstance(network, str) else adopt(network)
    changes = {"steps": steps, "network": named, "preprocess": preprocess and preprocess.name}
    recipe = recipe.override({name: one for name, one in changes.items() if one is not None})
    select.check_ipc(dataset, ipc, recipe.formation)
    job = Job(
        source=source or Source(name=dataset.name), fingerprint=dataset.fingerprint,
        ipc=ipc, seed=seed, recipe=recipe, chunk=chunk, storage=storage,
        device=pick_device(device).type, checkpoint_every=checkpoint_every,
        pools=None if pools is None else str(usable_path(pools).resolve()),
    )  # fmt: skip
    limit = seconds_of(minutes)
    deadline = None if limit is None else time.monotonic() + limit
    folder = None if out is None else usable_path(out)
    return _begin(folder, job, dataset, preprocess, quiet, deadline)


def resume(
    out: str | Path,
    dataset: Dataset | Own = None,
    *,
    network: Factory | None = None,
    quiet: bool = False,
) -> CondensedSet:
    """Continue the run in folder `out` from its last good checkpoint.

    The resulting file is the same as if the run had never stopped. `dataset` is needed only if no
    name loads it, `network` only if it is a function: give what `condense` was given. Raises
    `UserError` if the folder holds no run or the dataset has changed, and what `condense` raises.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset, recipe_for
    >>> tiny = {"steps": 2, "real_batch": 4, "network": "convnet-d1-w8"}
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(tiny)
    >>> with TemporaryDirectory() as out:
    ...     how = {"ipc": 1, "recipe": recipe, "device": "cpu", "quiet": True}
    ...     condensed = condense(load_dataset("digits"), out=out, **how)
    ...     resume(out).fingerprint == condensed.fingerprint
    True
    """
    folder, ranks = Path(out), Ranks.join()
    if network is not None:
        adopt(network)
    if not (folder / "run.json").exists():
        how = f"start one with `condensekit condense --out {folder}`"
        raise UserError(f"{folder} holds no run (no run.json): {how}")
    if load_record(folder)[0].finished and (folder / FILE_NAME).exists():
        if not quiet:
            print(f"{folder} is finished: nothing is left to do", file=sys.stderr)
        return CondensedSet.load(folder)  # also where nothing can be written
    with _owned(folder, ranks):
        _, job = load_record(folder)
        ranks.agree(job.to_json())
        if (folder / FILE_NAME).exists():
            return _completed(folder, job, ranks)
        dataset = _dataset_of(job) if dataset is None else as_dataset(dataset)
        if dataset.fingerprint != job.fingerprint:
            raise UserError(
                f"{folder} condenses {job.source.name} with content {job.fingerprint}, "
                f"but {dataset.name} now has content {dataset.fingerprint}"
            )
        return _go_on(folder, job, dataset, ranks, quiet)


def _dataset_of(job: Job) -> Dataset:
    """The dataset that the job records. Raises `UserError` where only the program has it."""
    with advice("if a program holds the dataset, give it: `resume(out, dataset)`"):
        return job.source.load()


def _planned(
    job: Job, start: CondensedSet, dataset: Dataset, deadline: float | None, quiet: bool
) -> tuple[Job, CondensedSet]:
    """The job with what fits before `deadline`, and its starting images; says how long it takes.

    Some steps are timed for that, if there is a deadline or the run is long enough.
    """
    if deadline is None and (quiet or is_short(job, dataset)):
        return job, start
    with notice("timing a few steps, to tell how long the run takes", quiet=quiet):
        told = rehearse(
            dataset, ipc=job.ipc, recipe=job.recipe, seed=job.seed, device=job.device,
            chunk=job.chunk, pools=job.pools,
        )  # fmt: skip
    if deadline is not None:
        told = fitted(told, dataset, deadline - time.monotonic())
    if not quiet:
        print(f"{told.text}: {until(told.total)}", file=sys.stderr, flush=True)
    facts = start.provenance | {"recipe": told.recipe.to_json()}
    planned = dataclasses.replace(job, recipe=told.recipe)
    return planned, dataclasses.replace(start, provenance=facts)


def _completed(folder: Path, job: Job, ranks: Ranks) -> CondensedSet:
    """The set in `folder`, of a run that was killed after it had written the set."""
    result = CondensedSet.load(folder)
    if ranks.leads:
        grid(result, folder / "grid.png")
        nothing = {"pool_seconds": 0.0, "seconds": 0.0}
        record(folder, job, steps_from=result.provenance["steps"], finished=True, **nothing)
        write_report(folder)
    ranks.wait()
    return result


def _in_memory(
    job: Job,
    dataset: Dataset,
    preprocess: Preprocess | None,
    ranks: Ranks,
    quiet: bool,
    deadline: float | None,
) -> CondensedSet:
    """Do a run without a folder, from start to end."""
    if ranks.count > 1:
        raise UserError("several ranks need a run folder that all of them see: give --out")
    start = starting_set(dataset, job, preprocess)
    job, start = _planned(job, start, dataset, deadline, quiet)
    pool = make_pool(dataset, job, start, ranks, quiet=quiet)
    learner = make_learner(dataset, job, start, ranks, pool)
    keep, draw = (lambda step: None), (lambda step, losses, seconds: None)
    steps = _steps(learner, job, 0, keep, draw, quiet, deadline)
    return _finished(start, [_learned(learner)], learner.learned(), job.recipe, pool, steps)


def _begin(
    folder: Path | None,
    job: Job,
    dataset: Dataset,
    preprocess: Preprocess | None,
    quiet: bool,
    deadline: float | None,
) -> CondensedSet:
    """Start a new run in `folder`, or in memory without one, and work to its end."""
    ranks = Ranks.join()
    ranks.agree(job.to_json())
    if deadline is not None and ranks.count > 1:
        raise UserError("--minutes is for a single process: give several ranks their --steps")
    if folder is None:
        return _in_memory(job, dataset, preprocess, ranks, quiet, deadline)
    with _owned(folder, ranks):
        if ranks.leads:
            check_free(folder, job)
            start = starting_set(dataset, job, preprocess)
            # Whatever is wrong with a job raises its error here, before anything is written.
            make_learner(dataset, job, start, ranks)
            if ranks.count == 1:
                job, start = _planned(job, start, dataset, deadline, quiet)
            start.save(folder / "start.safetensors", alone=False)
            record(folder, job, finished=False)
        ranks.wait()
        return _go_on(folder, job, dataset, ranks, quiet, deadline)


def _go_on(folder: Path, *rest: Any) -> CondensedSet:
    """Work on the run in `folder` to its end; whoever stops it is told how to go on."""
    with telling(f"go on with `condensekit condense --resume {folder}`"):
        return _work(folder, *rest)


def _work(
    folder: Path,
    job: Job,
    dataset: Dataset,
    ranks: Ranks,
    quiet: bool,
    deadline: float | None = None,
) -> CondensedSet:
    """Do the steps that are left of the run in `folder`, and write the files of a finished run."""
    start = CondensedSet.load(folder / "start.safetensors")
    began = time.monotonic()
    pool = make_pool(dataset, job, start, ranks, folder, quiet=quiet)
    trained = time.monotonic()
    learner = make_learner(dataset, job, start, ranks, pool)
    checkpoints, done = Checkpoints(folder, ranks), 0
    if last := checkpoints.last_good():
        state, done = last
        learner.load_state(state)
    with curves(folder if ranks.leads else None, done) as charts:

        def keep_state(step: int) -> None:
            checkpoints.save(learner.state(), step)
            if ranks.count == 1:
                result = _assemble(start, [_learned(learner)], learner.learned(), step)
                charts.picture(step, result)

        try:
            hushed = quiet or not ranks.leads
            steps = _steps(learner, job, done, keep_state, charts.losses, hushed, deadline)
        except Diverged as diverged:
            kept = checkpoints.newest_first()
            where = f"; the last good state is {kept[0]}" if kept else ""
            raise UserError(f"{diverged}{where}") from None
    parts = ranks.gather(_learned(learner))
    if ranks.leads:
        result = _finished(start, parts, learner.learned(), job.recipe, pool, steps)
        grid(result, folder / "grid.png")  # before the set, whose file says that all is made
        result.save(folder, storage=job.storage, alone=False)
        seconds = {"pool_seconds": trained - began, "seconds": time.monotonic() - trained}
        record(folder, job, steps_from=done, finished=True, **seconds)
        write_report(folder)
    ranks.wait()
    return CondensedSet.load(folder)


def _steps(
    learner: Learner,
    job: Job,
    done: int,
    keep_state: Callable[[int], None],
    draw: Callable[[int, dict[str, float], float], None],
    quiet: bool,
    deadline: float | None,
) -> int:
    """Do the steps after the first `done`, or those before `deadline`; returns how many are done.

    `keep_state` is called with the number of steps at each checkpoint, `draw` with that number, the
    losses and the seconds of a step at each look. Raises `Diverged`, or `Interrupted` if stopped.
    """
    steps, every = job.recipe.steps, _LOOK_EVERY[job.device]
    images_a_class = job.recipe.real_batch + job.ipc * job.recipe.formation**2
    images_a_step = len(learner.classes) * images_a_class
    with stop_signal() as stop, progress("condense", steps, done, quiet=quiet) as report:
        step, looked, began = done, done, time.perf_counter()
        for step in range(done + 1, steps + 1):
            totals = learner.step(step - 1)
            stopping = stop() and step < steps
            keeping = step % job.checkpoint_every == 0 or step == steps
            if step % every and not (stopping or keeping):
                continue
            losses = learner.read(totals, step)
            now = time.perf_counter()
            seconds = (now - began) / (step - looked)
            looked, began = step, now
            parts = "  ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
            speed = f"{seconds:.4g} s/step  {images_a_step / seconds:.0f} images/s"
            report(step, f"loss {sum(losses.values()):.4g} ({parts})  {speed}")
            draw(step, losses, seconds)
            late = deadline is not None and now + every * seconds > deadline
            if stopping or keeping or late:
                keep_state(step)
            if stopping:
                raise Interrupted(f"stopped after step {step} of {steps}")
            if late:
                break
    if step < steps and not quiet:
        print(f"the minutes were up after step {step:,} of {steps:,}", file=sys.stderr)
    return step


def _learned(learner: Learner) -> Learned:
    """What a learner has learned so far."""
    labels = None if learner.labels is None else learner.labels.detach().cpu()
    return learner.classes.cpu(), learner.images.detach().cpu(), labels


def _assemble(
    start: CondensedSet, parts: list[Learned], learned: dict[str, Any], steps: int
) -> CondensedSet:
    """The set made of the parts that all ranks have learned.

    Only a learner that has all classes learns labels, or what is in `learned`.
    """
    images = torch.empty_like(start.images).unflatten(0, (len(start.classes), -1))
    for classes, own, _ in parts:
        images[classes] = own.unflatten(0, (len(classes), -1))
    labels = start.labels if parts[0][2] is None else parts[0][2]
    facts = start.provenance | {"steps": steps} | ({"learned": learned} if learned else {})
    return dataclasses.replace(start, images=images.flatten(0, 1), labels=labels, provenance=facts)


def _finished(
    start: CondensedSet,
    parts: list[Learned],
    learned: dict[str, Any],
    recipe: Recipe,
    pool: Pool | None,
    steps: int,
) -> CondensedSet:
    """The set at the end of a run; the pool gives it soft labels if the recipe asks for them."""
    result = _assemble(start, parts, learned, steps)
    if not (recipe.soft_labels and pool):
        return result
    network = build(recipe.network, start.shape, len(start.classes)).to(pool.device)
    return dataclasses.replace(result, labels=pool.labels(network, result))


def _owned(folder: Path, ranks: Ranks) -> contextlib.AbstractContextManager[object]:
    """A context inside which the folder is in use, and rank 0 holds its lock."""
    return locked(folder) if ranks.leads else in_use(folder)
