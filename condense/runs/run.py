"""A condensation from start to end: started once, killed at will, resumed to the same bits, by one process or several."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, make_preprocess
from condense.device import peak_memory, pick_device
from condense.errors import UserError, unknown
from condense.methods import Looping
from condense.methods import selection as select
from condense.methods.base import Diverged, Learner, Problem, Recipe
from condense.methods.recipes import recipe_for
from condense.networks.build import build
from condense.progress import progress
from condense.report.curves import curves
from condense.report.pictures import grid
from condense.runs.engine import Engine
from condense.runs.job import Checkpoints, Job, check_free, load_job, record
from condense.runs.ranks import Ranks
from condense.sets.condensed import STORAGES, CondensedSet
from condense.sets.provenance import provenance
from condense.study.interrupt import Interrupted, stop_signal
from condense.study.record import locked
from condense.training.pool import Pool, train_pool

__all__ = ["Interrupted", "condense", "rehearse", "resume"]

_LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between looks at the loss: on a GPU a look waits for the device."""

_TIMED_STEPS = 4
"""Steps of a pool's training by which a rehearsal judges it."""


def condense(
    dataset: Dataset,
    *,
    ipc: int,
    recipe: str | Recipe = "paper",
    steps: int | None = None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    chunk: int | None = None,
    checkpoint_every: int = 200,
    storage: str = "float32",
    source: Source | None = None,
    quiet: bool = False,
) -> CondensedSet:
    """Condense `dataset` into `ipc` images per class.

    With `out` the run is kept in that folder, checkpointed every `checkpoint_every` steps, and can
    be resumed; without, it lives in memory. `recipe` is a name of `RECIPES` or a `Recipe`; `steps`
    replaces its number of steps. `preprocess`, already fitted, replaces the recipe's, which is
    fitted to `dataset`. Raises `UserError` for bad input, for a folder that holds another run, and
    for a loss that diverges; `Interrupted` on Ctrl-C, state saved.
    """
    if isinstance(recipe, str):
        recipe = recipe_for(recipe, dataset.name, dataset.shape, ipc)
    changes = {"steps": steps, "preprocess": preprocess and preprocess.name}
    recipe = recipe.override({key: value for key, value in changes.items() if value is not None})
    if checkpoint_every < 1:
        raise UserError(f"--checkpoint-every {checkpoint_every}: it must be 1 or more")
    select.check_ipc(dataset, ipc, recipe.formation)
    job = Job(
        source=source or Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        ipc=ipc,
        seed=seed,
        recipe=recipe,
        device=pick_device(device).type,
        chunk=chunk,
        checkpoint_every=checkpoint_every,
        storage=storage,
    )
    ranks = Ranks.join()
    ranks.agree(job.to_json())
    if out is not None:
        return _begin(Path(out), job, dataset, preprocess, ranks, quiet)
    if ranks.count > 1:
        raise UserError("several ranks need a run folder that all of them see: give --out")
    start = _start(dataset, job, preprocess)
    pool = _pool(dataset, job, start, ranks, None)
    learner = _learner(dataset, job, start, ranks, pool)
    _steps(learner, job, 0, lambda step: None, lambda step, losses, seconds: None, quiet)
    return _finished(start, [_learned(learner)], learner.learned(), job.recipe, pool)


def rehearse(
    dataset: Dataset,
    *,
    ipc: int,
    recipe: Recipe,
    seed: int = 0,
    device: str = "auto",
    chunk: int | None = None,
    steps: int = 3,
) -> dict[str, Any]:
    """What `condense` would do, with time and memory measured on a few steps (the first, which warms up, not counted)."""
    place, preprocess = pick_device(device), make_preprocess(recipe.preprocess, dataset)
    job = Job(
        source=Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        ipc=ipc,
        seed=seed,
        recipe=recipe,
        device=place.type,
        chunk=chunk,
        checkpoint_every=1,
    )
    start = select.start(
        "noise", dataset, ipc, formation=recipe.formation, preprocess=preprocess, seed=seed
    )
    began = time.perf_counter()
    pool = _pool(dataset, dataclasses.replace(job, recipe=_shortened(recipe)), start, Ranks(), None)
    training = (time.perf_counter() - began) / _TIMED_STEPS * recipe.pool * recipe.pool_steps
    learner = _learner(dataset, job, start, Ranks(), pool)
    taken = []
    for step in range(steps):
        began = time.perf_counter()
        totals = learner.step(step)
        with contextlib.suppress(
            Diverged
        ):  # noise may, at a rate that suits images; it takes the same time
            learner.read(totals, step + 1)
        taken.append(time.perf_counter() - began)
    counted = taken[1:]
    seconds = fmean(counted)
    return {
        "recipe": recipe.to_json(),
        "ipc": ipc,
        "device": place.type,
        "chunk": len(learner.chunks[0] if isinstance(learner, Engine) else learner.classes),
        "seconds_a_step": round(seconds, 4),
        "seconds_of_steps": [round(one, 4) for one in counted],
        "seconds_in_all": round(training + seconds * recipe.steps),
        "peak_memory_MB": round(peak_memory(place) / 1e6),
    }


def resume(out: str | Path, dataset: Dataset | None = None, *, quiet: bool = False) -> CondensedSet:
    """Go on with the run in folder `out`, from its last good checkpoint, to the same file as if it had never stopped.

    `dataset` is needed only where the run was started on one that has no name to load it by.
    """
    folder, ranks = Path(out), Ranks.join()
    if not (folder / "run.json").exists():
        raise UserError(
            f"{folder} holds no run (no run.json): start one with `condense --out {folder}`"
        )
    with _owned(folder, ranks):
        job = load_job(folder)
        ranks.agree(job.to_json())
        if (folder / "set.safetensors").exists():
            return CondensedSet.load(folder)
        dataset = dataset or job.source.load()
        if dataset.fingerprint != job.fingerprint:
            raise UserError(
                f"{folder} condenses {job.source.name} with content {job.fingerprint}, "
                f"but {dataset.name} found now has content {dataset.fingerprint}"
            )
        return _go_on(folder, job, dataset, ranks, quiet)


def _shortened(recipe: Recipe) -> Recipe:
    """The recipe with as much of a pool as is worth timing."""
    return recipe.override({"pool": 1, "pool_steps": _TIMED_STEPS}) if recipe.pool else recipe


def _pool(
    dataset: Dataset, job: Job, start: CondensedSet, ranks: Ranks, folder: Path | None
) -> Pool | None:
    """The trained networks that the recipe asks for: trained by rank 0 and kept in `folder`, where the others find them."""
    if not job.recipe.pool:
        return None
    if not ranks.leads:
        ranks.wait()
    place = ranks.place(torch.device(job.device))
    recipe = job.recipe
    trained = train_pool(
        dataset,
        recipe.network,
        recipe.pool,
        recipe.pool_steps,
        augment=recipe.augment,
        preprocess=start.preprocess,
        seed=job.seed,
        device=place,
        folder=folder and folder / "pool",
    )
    if ranks.leads:
        ranks.wait()
    return Pool(trained, job.seed, (job.recipe.pool_from, job.recipe.pool_to))


def _learner(
    dataset: Dataset, job: Job, start: CondensedSet, ranks: Ranks, pool: Pool | None = None
) -> Learner:
    """What learns the images: the engine, which treats the classes of a matching method in chunks, or the method's own loop."""
    recipe, place = job.recipe, ranks.place(torch.device(job.device))
    if isinstance(recipe.method, Looping):
        if recipe.formation > 1 or recipe.pool:
            raise UserError(
                f"method `{recipe.method.name}` knows neither mosaics nor a pool: `formation` must be 1, `pool` 0"
            )
        if ranks.count > 1:
            raise UserError(
                f"method `{recipe.method.name}` joins all classes, so ranks cannot share them: start one process"
            )
        if job.chunk is not None:
            raise UserError(
                f"--chunk {job.chunk}: method `{recipe.method.name}` has no chunks of classes; leave --chunk out"
            )
        return recipe.method.learner(
            Problem(dataset=dataset, recipe=recipe, start=start, seed=job.seed, device=place)
        )
    return Engine(
        dataset,
        recipe,
        start.preprocess,
        start.images,
        seed=job.seed,
        device=place,
        chunk=job.chunk,
        rank=ranks.rank,
        ranks=ranks.count,
        pool=pool,
    )


def _begin(
    folder: Path,
    job: Job,
    dataset: Dataset,
    preprocess: Preprocess | None,
    ranks: Ranks,
    quiet: bool,
) -> CondensedSet:
    """Make `folder` the home of a new run, and work to its end."""
    with _owned(folder, ranks):
        if ranks.leads:
            check_free(folder, job)
            start = _start(dataset, job, preprocess)
            # All that can be wrong with a job shows before the folder becomes its own.
            _learner(dataset, job, start, ranks)
            start.save(folder / "start.safetensors")
            record(folder, job, finished=False)
        ranks.wait()
        return _go_on(folder, job, dataset, ranks, quiet)


def _go_on(folder: Path, job: Job, dataset: Dataset, ranks: Ranks, quiet: bool) -> CondensedSet:
    """Work from where `folder` is to the end, and write what a finished run has."""
    start = CondensedSet.load(folder / "start.safetensors")
    pool = _pool(dataset, job, start, ranks, folder)
    learner, checkpoints = _learner(dataset, job, start, ranks, pool), Checkpoints(folder, ranks)
    done = 0
    if last := checkpoints.last_good():
        state, done = last
        learner.load_state(state)
    began = time.monotonic()
    with curves(folder if ranks.leads else None, done) as drawn:

        def keep_state(step: int) -> None:
            checkpoints.save(learner.state(), step)
            if ranks.count == 1:
                drawn.picture(step, _assemble(start, [_learned(learner)], learner.learned(), step))

        try:
            _steps(learner, job, done, keep_state, drawn.losses, quiet or not ranks.leads)
        except Diverged as diverged:
            kept = [str(path) for path in checkpoints.newest_first()[:1]]
            raise UserError(
                f"{diverged}{''.join(f'; the last good state is {path}' for path in kept)}"
            ) from None
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}; go on with `condense --resume {folder}`") from None
    parts = ranks.gather(_learned(learner))
    if ranks.leads:
        result = _finished(start, parts, learner.learned(), job.recipe, pool)
        result.save(folder / "set.safetensors", storage=job.storage)
        grid(result, folder / "grid.png")
        record(folder, job, steps_from=done, seconds=time.monotonic() - began, finished=True)
    ranks.wait()
    return CondensedSet.load(folder)


def _steps(
    learner: Learner,
    job: Job,
    done: int,
    keep_state: Callable[[int], None],
    draw: Callable[[int, dict[str, float], float], None],
    quiet: bool,
) -> None:
    """Steps `done` to the last. Raises `Diverged` and, the state kept, `Interrupted`."""
    steps, every = job.recipe.steps, _LOOK_EVERY[job.device]
    images_a_step = len(learner.classes) * (
        job.recipe.real_batch + job.ipc * job.recipe.formation**2
    )
    with stop_signal() as stop, progress("condense", steps, done, quiet=quiet) as told:
        looked, began = done, time.perf_counter()
        for step in range(done + 1, steps + 1):
            totals = learner.step(step - 1)
            stopping, keeping = (
                stop() and step < steps,
                step % job.checkpoint_every == 0 or step == steps,
            )
            if step % every and not (stopping or keeping):
                continue
            losses = learner.read(totals, step)
            seconds, looked, began = (
                (time.perf_counter() - began) / (step - looked),
                step,
                time.perf_counter(),
            )
            parts = "  ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
            speed = f"{seconds:.4g} s/step  {images_a_step / seconds:.0f} images/s"
            told(step, f"loss {sum(losses.values()):.4g} ({parts})  {speed}")
            draw(step, losses, seconds)
            if stopping or keeping:
                keep_state(step)
            if stopping:
                raise Interrupted(f"stopped after step {step} of {steps}")


def _learned(learner: Learner) -> tuple[Tensor, Tensor, Tensor | None]:
    """The classes of a learner, their images and, where they were learned, their labels, on the host."""
    labels = None if learner.labels is None else learner.labels.detach().cpu()
    return learner.classes.cpu(), learner.images.detach().cpu(), labels


def _assemble(
    start: CondensedSet,
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
    learned: dict[str, Any],
    steps: int,
) -> CondensedSet:
    """The set of what all ranks have learned. Labels, and what is `learned` beside, come of one that has all classes."""
    images = torch.empty_like(start.images).unflatten(0, (len(start.classes), -1))
    for classes, own, _ in parts:
        images[classes] = own.unflatten(0, (len(classes), -1))
    labels = start.labels if parts[0][2] is None else parts[0][2]
    facts = start.provenance | {"steps": steps} | ({"learned": learned} if learned else {})
    return dataclasses.replace(start, images=images.flatten(0, 1), labels=labels, provenance=facts)


def _finished(
    start: CondensedSet,
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
    learned: dict[str, Any],
    recipe: Recipe,
    pool: Pool | None,
) -> CondensedSet:
    """The set at the end of a run, labelled anew where the recipe says so."""
    result = _assemble(start, parts, learned, recipe.steps)
    if not (recipe.soft_labels and pool):
        return result
    network = build(recipe.network, start.shape, len(start.classes)).to(pool.device)
    return dataclasses.replace(result, labels=pool.labels(network, result))


def _start(dataset: Dataset, job: Job, preprocess: Preprocess | None) -> CondensedSet:
    """The starting images, under `preprocess` or, by default, the recipe's, fitted to the dataset."""
    if job.storage not in STORAGES:
        raise unknown("storage", job.storage, STORAGES)
    recipe, preprocess = job.recipe, preprocess or make_preprocess(job.recipe.preprocess, dataset)
    how: dict[str, Any] = {"preprocess": preprocess, "seed": job.seed, "device": job.device}
    start = select.start(recipe.init, dataset, job.ipc, formation=recipe.formation, **how)
    origin = provenance(
        dataset,
        preprocess=preprocess.fingerprint,
        ipc=job.ipc,
        seed=job.seed,
        recipe=recipe.to_json(),
        device=job.device,
        steps=0,
    )
    return dataclasses.replace(start, provenance=origin)


@contextlib.contextmanager
def _owned(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The folder locked by the team's rank 0."""
    with locked(folder) if ranks.leads else contextlib.nullcontext():
        yield
