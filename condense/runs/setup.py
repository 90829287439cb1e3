"""What a run is made of: its starting images, its pool of trained networks, and its learner."""

import dataclasses
from pathlib import Path

import torch

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, make_preprocess
from condense.errors import UserError
from condense.methods import Looping
from condense.methods import selection as select
from condense.methods.base import Learner, Matching, Problem
from condense.networks.factories import is_foreign
from condense.runs.engine import Engine
from condense.runs.job import Job
from condense.runs.pools import pool_of
from condense.runs.ranks import Ranks
from condense.sets.condensed import CondensedSet
from condense.sets.provenance import provenance
from condense.training.pool import Pool


def starting_set(dataset: Dataset, job: Job, preprocess: Preprocess | None = None) -> CondensedSet:
    """The starting images of a job, with their provenance.

    `preprocess` is a fitted transform; by default, the transform of the recipe is fitted to the
    dataset. Raises `UserError` for an unknown storage or starting point, and for images or classes
    that are too small.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.catalogue import Source
    >>> digits = load_dataset("digits")
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint=digits.fingerprint, ipc=2, seed=0,
    ...     recipe=recipe_for("dm", "digits", digits.shape, 2), device="cpu", chunk=None,
    ...     checkpoint_every=200,
    ... )
    >>> starting_set(digits, job).images.shape
    torch.Size([20, 1, 8, 8])
    """
    recipe, preprocess = job.recipe, preprocess or make_preprocess(job.recipe.preprocess, dataset)
    start = select.start(
        recipe.init,
        dataset,
        job.ipc,
        formation=recipe.formation,
        preprocess=preprocess,
        seed=job.seed,
        device=job.device,
    )
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


def make_pool(
    dataset: Dataset,
    job: Job,
    start: CondensedSet,
    ranks: Ranks,
    folder: Path | None = None,
    *,
    quiet: bool = True,
) -> Pool | None:
    """The trained networks that the recipe asks for; None if it asks for none.

    Rank 0 trains them. They are kept in the job's folder of pools or, if it has none, in the
    subfolder `pool` of `folder`; the other ranks find them there.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.catalogue import Source
    >>> digits = load_dataset("digits")
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint=digits.fingerprint, ipc=2, seed=0,
    ...     recipe=recipe_for("dm", "digits", digits.shape, 2), device="cpu", chunk=None,
    ...     checkpoint_every=200,
    ... )
    >>> make_pool(digits, job, starting_set(digits, job), Ranks()) is None
    True
    """
    if not job.recipe.pool:
        return None
    if not ranks.leads:
        ranks.wait()  # until rank 0 has trained them
    pool = pool_of(
        dataset,
        job.recipe,
        start.preprocess,
        seed=job.seed,
        device=ranks.place(torch.device(job.device)),
        folder=folder and folder / "pool",
        shared=None if job.pools is None else Path(job.pools),
        quiet=quiet or not ranks.leads,
    )
    if ranks.leads:
        ranks.wait()
    return pool


def make_learner(
    dataset: Dataset, job: Job, start: CondensedSet, ranks: Ranks, pool: Pool | None = None
) -> Learner:
    """What learns the images, from `start` on.

    For a matching method this is the engine, which treats the classes in chunks. Other methods
    bring their own loop. Raises `UserError` if the method cannot do what the job asks for.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.catalogue import Source
    >>> digits = load_dataset("digits")
    >>> recipe = recipe_for("dm", "digits", digits.shape, 1).override({"network": "convnet-d1-w8"})
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint=digits.fingerprint, ipc=1, seed=0,
    ...     recipe=recipe, device="cpu", chunk=5, checkpoint_every=200,
    ... )
    >>> learner = make_learner(digits, job, starting_set(digits, job), Ranks())
    >>> [chunk.tolist() for chunk in learner.chunks]
    [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    """
    recipe, place = job.recipe, ranks.place(torch.device(job.device))
    if isinstance(recipe.method, Looping):
        _check_looping(job, ranks)
        return recipe.method.learner(
            Problem(dataset=dataset, recipe=recipe, start=start, seed=job.seed, device=place)
        )
    engine = Engine(
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
    assert isinstance(recipe.method, Matching)
    if is_foreign(recipe.network):  # whose layers may not show what the method matches
        recipe.method.describe(engine.network, torch.zeros(2, *dataset.shape, device=place))
    return engine


def _check_looping(job: Job, ranks: Ranks) -> None:
    """Raise a `UserError` if the job asks for something that only the engine can do."""
    method, recipe = job.recipe.method.name, job.recipe
    if recipe.formation > 1 or recipe.pool or recipe.clamp or recipe.schedule != "constant":
        raise UserError(
            f"method `{method}` knows no mosaics, no pool, no clamping and no schedule: "
            "`formation` must be 1, `pool` 0, `clamp` false, `schedule` constant"
        )
    if ranks.count > 1:
        raise UserError(
            f"method `{method}` joins all classes, so ranks cannot share them: start one process"
        )
    if job.chunk is not None:
        raise UserError(
            f"--chunk {job.chunk}: method `{method}` has no chunks of classes; leave --chunk out"
        )
