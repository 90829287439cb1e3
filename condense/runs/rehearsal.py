"""A dry run: a few steps of a condensation, to measure how long all of them would take.

From the pace of these steps follows how long a run takes, and what of it fits into a budget.
"""

import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.device import peak_memory, pick_device
from condense.errors import UserError
from condense.methods import selection as select
from condense.methods.base import Diverged, Learner, Matching, Recipe
from condense.networks.accelerate import worth_compiling
from condense.progress import duration, notice
from condense.runs.engine import Engine
from condense.runs.job import Job
from condense.runs.pools import protocol_of, shortened, steps_left, steps_of
from condense.runs.ranks import Ranks
from condense.runs.setup import make_learner, make_pool
from condense.training.evaluate import Evaluation
from condense.training.pool import seconds_a_step
from condense.words import counted

NETWORKS = 20
"""The networks of an evaluation that is timed: as many as `evaluate` trains by default."""
_POOL_SHARE = 0.4
"""The largest part of a budget that the training of the pool may take."""
_FEW = 20
"""Steps that a run should have at least, for what a too short one is told."""
_MARGIN = 0.9
"""The part of the time left for steps that is planned: later steps may be slower than the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a run would do, and how long its parts take. Times are in seconds.

    >>> from condense import recipe_for
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override({"steps": 1000})
    >>> told = Rehearsal(
    ...     recipe=recipe, ipc=1, device="cpu", chunk=10, steps=(0.4, 0.6), pool=300.0,
    ...     pool_step=0.1, peak_memory=10**9,
    ... )
    >>> told.step, told.total
    (0.5, 800.0)
    """

    recipe: Recipe
    ipc: int
    device: str
    """`cpu` or `cuda`."""
    chunk: int
    """Classes that are treated at once."""
    steps: tuple[float, ...]
    """Each of the steps that were timed."""
    pool: float
    """The training of the networks of the pool that are not there yet; 0 without a pool."""
    pool_step: float
    """A step of that training."""
    peak_memory: int
    """Bytes."""
    evaluation: float | None = None
    """The evaluation of the set by `evaluate` with its defaults, where it was asked for."""

    @property
    def step(self) -> float:
        """A step of condensing."""
        return fmean(self.steps)

    @property
    def total(self) -> float:
        """All of the run."""
        return self.pool + self.step * self.recipe.steps

    @property
    def text(self) -> str:
        """The work in words."""
        pool, steps = self.recipe.pool, counted(self.recipe.steps, "step")
        return f"{counted(pool, 'network')} to match under, {steps}" if pool else steps

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, rounded; `peak_memory_MB` is in 10^6 bytes."""
        return {
            "recipe": self.recipe.to_json(),
            "ipc": self.ipc,
            "device": self.device,
            "chunk": self.chunk,
            "seconds_a_step": round(self.step, 4),
            "seconds_of_steps": [round(one, 4) for one in self.steps],
            "seconds_of_the_pool": round(self.pool),
            "seconds_in_all": round(self.total),
            "seconds_of_the_evaluation": None
            if self.evaluation is None
            else round(self.evaluation),
            "peak_memory_MB": round(self.peak_memory / 1e6),
        }


def rehearse(
    dataset: Dataset,
    *,
    ipc: int,
    recipe: Recipe,
    seed: int = 0,
    device: str = "auto",
    chunk: int | None = None,
    pools: str | Path | None = None,
    steps: int = 3,
    evaluation: bool = False,
) -> Rehearsal:
    """What `condense` would do, with its time and memory measured on a few steps.

    Does `steps` steps, 2 or more. The first one warms up and is not counted. With `evaluation`, a
    few steps of an evaluation by the defaults are timed, too. Nothing is written.
    Raises `UserError` for what `condense` would refuse.

    >>> from condense import load_dataset, recipe_for
    >>> tiny = {"steps": 100, "real_batch": 4, "network": "convnet-d1-w8"}
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(tiny)
    >>> told = rehearse(load_dataset("digits"), ipc=1, recipe=recipe, device="cpu")
    >>> len(told.steps), told.step < 10
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
    pool = make_pool(dataset, dataclasses.replace(job, recipe=shortened(recipe)), start, Ranks())
    learner = make_learner(dataset, job, start, Ranks(), pool)
    timed = _timed(learner, steps)[1:]
    pool_step, left = 0.0, 0
    if recipe.pool:
        shared = None if pools is None else Path(pools)
        left = steps_left(dataset, recipe, preprocess, seed=seed, shared=shared)
        protocol = protocol_of(recipe, dataset)
        pool_step = seconds_a_step(
            dataset, recipe.network, recipe.pool, protocol, preprocess=preprocess, device=place
        )
    memory, evaluating = peak_memory(place), None
    if evaluation:
        bench = Evaluation.of(start, dataset, "convnet", NETWORKS, "dm", seed).to(place)
        with notice("timing an evaluation"):
            evaluating = bench.seconds(bench.tasks)
    return Rehearsal(
        recipe=recipe,
        ipc=ipc,
        device=place.type,
        chunk=len(learner.chunks[0] if isinstance(learner, Engine) else learner.classes),
        steps=tuple(timed),
        pool=pool_step * left,
        pool_step=pool_step,
        peak_memory=memory,
        evaluation=evaluating,
    )


def fitted(told: Rehearsal, dataset: Dataset, seconds: float) -> Rehearsal:
    """The run with as many steps, and as long a training of its pool, as `seconds` allow.

    The pool takes two fifths of the time at most: its networks are then trained for fewer passes
    and, if that would be fewer than two, there are fewer of them. Raises `UserError` where the time
    is too short for one step.

    >>> from condense import load_dataset, recipe_for
    >>> digits, tiny = load_dataset("digits"), {"real_batch": 4, "network": "convnet-d1-w8"}
    >>> recipe = recipe_for("dm", "digits", digits.shape, ipc=1).override(tiny)
    >>> told = rehearse(digits, ipc=1, recipe=recipe, device="cpu")
    >>> fitted(told, digits, seconds=10 * told.step).recipe.steps
    9
    """
    recipe, pool = told.recipe, told.pool
    if pool and pool > _POOL_SHARE * seconds:
        recipe = _with_pool_cut(
            recipe, dataset, int(_POOL_SHARE * max(seconds, 0) / told.pool_step)
        )
        pool = told.pool_step * steps_of(recipe, dataset)
    steps = math.floor(_MARGIN * (seconds - pool) / told.step + 1e-9)
    if steps < 1:
        first = f", after {duration(pool)} for the pool of networks" if pool else ""
        more = math.ceil(_FEW * told.step / 60)
        raise UserError(
            f"no step fits into the {duration(max(seconds, 0))} that are left of the limit after "
            f"timing: one takes {duration(told.step)} here{first}; give at least "
            f"{counted(more, 'minute')} more, enough for {_FEW} steps, or let a step take fewer "
            "real images"
        )
    return dataclasses.replace(told, recipe=recipe.override({"steps": steps}), pool=pool)


def _with_pool_cut(recipe: Recipe, dataset: Dataset, steps: int) -> Recipe:
    """The recipe with a pool that is trained for `steps` steps in all, or one for each network."""
    two_passes = 2 * protocol_of(recipe, dataset).steps_of_a_pass(len(dataset.train))
    networks = max(1, min(recipe.pool, steps // two_passes))
    changes = {"pool": networks, "pool_steps": max(1, steps // networks), "pool_epochs": None}
    return recipe.override(changes)


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


def is_short(job: Job, dataset: Dataset) -> bool:
    """Whether a run is too short to time some of its steps first, or one of those takes long.

    >>> from condense import load_dataset, recipe_for
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override({"steps": 10})
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint="0123", ipc=1, seed=0, recipe=recipe,
    ...     device="cpu", chunk=None, checkpoint_every=200,
    ... )
    >>> is_short(job, load_dataset("digits"))
    True
    """
    if not isinstance(job.recipe.method, Matching):
        return True
    images = job.recipe.real_batch + 2 * job.ipc * job.recipe.formation**2
    pixels = dataset.shape[1] * dataset.shape[2]
    return not worth_compiling(job.recipe.steps * images * len(dataset.classes) * pixels)
