"""A dry run: a few steps of a condensation, to measure how long all of them would take."""

import contextlib
import dataclasses
import time
from statistics import fmean
from typing import Any

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.device import peak_memory, pick_device
from condense.methods import selection as select
from condense.methods.base import Diverged, Learner, Recipe
from condense.runs.engine import Engine
from condense.runs.job import Job
from condense.runs.pools import shortened, steps_of
from condense.runs.ranks import Ranks
from condense.runs.setup import make_learner, make_pool

_POOL_STEPS = 4
"""Training steps of the one network of a pool that is timed."""


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
    """What `condense` would do, with its time and memory measured on a few steps.

    Does `steps` steps, 2 or more. The first one warms up and is not counted. Times are in seconds,
    `peak_memory_MB` in 10^6 bytes. Raises `UserError` for what `condense` would refuse.

    >>> from condense import load_dataset, recipe_for
    >>> tiny = {"steps": 100, "real_batch": 4, "network": "convnet-d1-w8"}
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(tiny)
    >>> facts = rehearse(load_dataset("digits"), ipc=1, recipe=recipe, device="cpu")
    >>> len(facts["seconds_of_steps"]), facts["seconds_a_step"] < 10
    (2, True)
    """
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
    brief = dataclasses.replace(job, recipe=shortened(recipe, _POOL_STEPS))
    pool = make_pool(dataset, brief, start, Ranks())
    training = (time.perf_counter() - began) / _POOL_STEPS * steps_of(recipe, dataset)
    learner = make_learner(dataset, job, start, Ranks(), pool)
    seconds_of_steps = _timed(learner, steps)[1:]
    seconds = fmean(seconds_of_steps)
    return {
        "recipe": recipe.to_json(),
        "ipc": ipc,
        "device": place.type,
        "chunk": len(learner.chunks[0] if isinstance(learner, Engine) else learner.classes),
        "seconds_a_step": round(seconds, 4),
        "seconds_of_steps": [round(one, 4) for one in seconds_of_steps],
        "seconds_in_all": round(training + seconds * recipe.steps),
        "peak_memory_MB": round(peak_memory(place) / 1e6),
    }


def _timed(learner: Learner, steps: int) -> list[float]:
    """The seconds that each of the first steps takes."""
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        totals = learner.step(step)
        # Noise may diverge at a learning rate that suits images, but it takes the same time.
        with contextlib.suppress(Diverged):
            learner.read(totals, step + 1)
        seconds.append(time.perf_counter() - began)
    return seconds
