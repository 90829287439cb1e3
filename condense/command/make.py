"""`condensekit condense`, `pool` and `experts`: make condensed sets, and what some methods need."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from condense.command.advice import of_recipe, warn
from condense.command.shared import (
    Data,
    Device,
    Output,
    pairs,
    recipe_rows,
    show_facts,
    show_rows,
    show_set,
)
from condense.errors import UserError
from condense.options import Command, Heading, Part, Rows, check_resumed, setting_rows
from condense.progress import duration, notice, until
from condense.settings import described
from condense.study.interrupt import seconds_of
from condense.words import counted

if TYPE_CHECKING:
    from condense.data.images import Dataset
    from condense.methods.base import Recipe
    from condense.runs.rehearsal import Rehearsal
    from condense.training.experts import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How much is condensed.

    >>> Amount().ipc
    10
    """

    ipc: int = 10
    """Images per class."""
    seed: int = 0
    """Every random number follows from it."""
    minutes: float | None = None
    """Choose the number of steps, and the training of a pool, so that the run takes that long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The recipe and the method, with the settings of methods that have a flag of their own.

    >>> Choice(power=2.0, set=("layers=[0]",)).changes()
    {'power': 2.0, 'layers': '[0]'}
    """

    recipe: str | None = None
    """`best` (the default), `datadam`, `paper` (DataDAM, literally), `official-code`, `dance`, or a
    method: as its authors published it. See `condensekit recipes`."""
    method: str | None = None
    """Method as its authors published it: datadam, dm, mmd, cafe, dc, dsa, mtt, dd, kip, ld, gmmn,
    cgan or vae; with `--recipe`, under that one's other settings. `--method NAME --help` shows its
    own settings."""
    experts: Path | None = None
    """For mtt: the folder of expert trajectories (see `condensekit experts`)."""
    loss_scale: float | None = None
    """Factor on the loss; with `--lr` it sets how far the pixels move."""
    power: float | None = None
    """Power p of DataDAM's attention maps."""
    task_balance: float | None = None
    """DataDAM's lambda: weight of the mean matching."""
    set: tuple[str, ...] = ()
    """Any setting as KEY=VALUE, also of the method; may be repeated."""

    def resolve(self, real: "Dataset", ipc: int, changes: Mapping[str, Any]) -> "Recipe":
        """The recipe for `ipc` images of a class of a dataset, with `changes` of the recipe."""
        from condense.methods import recipes

        name = self.recipe or (recipes.published_as(self.method) if self.method else "best")
        resolved = recipes.recipe_for(name, real.name, real.shape, ipc, method=self.method)
        return resolved.override({**changes, **self.changes()})

    def changes(self) -> dict[str, Any]:
        """What was given of the settings of a recipe and its method."""
        flags = {name: getattr(self, name) for name in ("loss_scale", "power", "task_balance")}
        flags["experts"] = None if self.experts is None else str(self.experts)
        return {name: value for name, value in flags.items() if value is not None} | pairs(self.set)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine(Device):
    """What a condensation runs on.

    >>> Machine(chunk=5).device
    'auto'
    """

    chunk: int | None = None
    """Classes treated at once; fewer need less memory. Chosen for the device unless given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a condensation is kept, and whether it is a new one.

    >>> Run().storage
    'float32'
    """

    out: Path | None = None
    """Run folder, made here."""
    resume: Path | None = None
    """Go on with the run in this folder; no other flag is needed, but for `--network` where that is
    a function of yours."""
    dry_run: bool = False
    """Print the resolved recipe, and the time and memory that steps and an evaluation take here.

    Timing them may take minutes on a slow machine, as they are compiled first."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    pools: Path | None = None
    """Folder of trained networks that runs share (see `condensekit pool`). Without it, a run whose
    recipe has a pool trains its own."""
    storage: str = "float32"
    """How images are stored: `float32`, `float16` or `uint8`."""
    json: bool = False
    """Print one JSON document on stdout, for machines."""


def _own_settings(values: Mapping[str, Any]) -> dict[str, Rows]:
    """The settings of the method that the other options name, for the help."""
    from condense.methods import METHODS

    name = values.get("method") or values.get("recipe")
    if name not in METHODS:
        return {}
    rows = setting_rows(described(METHODS[name]))
    return {f"Settings of {name}, each given as --set KEY=VALUE": rows} if rows else {}


@click.command(
    cls=Command,
    details=_own_settings,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "amount": Part(kind=Amount, heading=Heading.HOW_MUCH),
        "choice": Part(kind=Choice, heading=Heading.MATCHED),
        "recipe": Part(
            kind="condense.methods.base:Recipe",
            heading=Heading.MATCHED,
            elsewhere={"steps": Heading.HOW_MUCH, "real_batch": Heading.HOW_MUCH},
            leave=("name", "method"),
            changes=True,
        ),
        "machine": Part(kind=Machine, heading=Heading.WHERE),
        "output": Part(kind=Run, heading=Heading.OUTPUT),
    },
)
def condense(
    data: Data,
    amount: Amount,
    choice: Choice,
    recipe: dict[str, Any],
    machine: Machine,
    output: Run,
) -> None:
    """Condense a dataset into a few images per class.

    \b
    condensekit condense --dataset cifar10 --data-dir DIR --ipc 10 --out runs/c10 --minutes 30
    condensekit condense --resume runs/c10
    condensekit condense --method dsa --help

    A run can be stopped or killed at any time; resumed, it ends with the same file as if it had not
    been. A setting that is not given is the recipe's: `condensekit recipes paper` prints them.
    """
    from condense.networks.factories import adopt_named
    from condense.runs import rehearsal, run

    adopt_named(recipe.get("network", ""))
    if output.resume is not None:
        check_resumed(click.get_current_context(), "run", {"resume", "network", "json"})
        run.resume(output.resume)
        show_set(output.resume, output.json)
        return
    source = data.source()
    if output.out is None and not output.dry_run:
        raise UserError(
            "--out is missing: name the run folder (or --dry-run to see what would be done)"
        )
    real = source.load(download=data.download)
    chosen, limit = choice.resolve(real, amount.ipc, recipe), seconds_of(amount.minutes)
    warn(of_recipe(chosen))
    job: dict[str, Any] = {
        "ipc": amount.ipc, "recipe": chosen, "seed": amount.seed,
        "device": machine.device, "chunk": machine.chunk,
    }  # fmt: skip
    if output.dry_run or output.out is None:
        with notice("timing a few steps"):
            told = rehearsal.rehearse(real, pools=output.pools, evaluation=True, **job)
        if limit is not None:
            told = rehearsal.fitted(told, real, limit)
        _show_plan(told, real, output.json)
        return
    run.condense(
        real, out=output.out, source=source, storage=output.storage, minutes=amount.minutes,
        checkpoint_every=output.checkpoint_every, pools=output.pools, **job,
    )  # fmt: skip
    show_set(output.out, output.json)


def _show_plan(told: "Rehearsal", real: "Dataset", as_json: bool) -> None:
    """Print what a run would do, how long its parts take here, and every setting."""
    if as_json:
        show_facts(told.to_json(), as_json=True)
        return
    from condense.runs.rehearsal import NETWORKS

    recipe, evaluation = told.recipe, told.evaluation or 0.0
    pool = f"training {counted(recipe.pool, 'network')} to match under (those not there yet)"
    steps = f"{counted(recipe.steps, 'step')} of {duration(told.step)} each"
    times = [(duration(told.pool), pool)] if recipe.pool else []
    times += [
        (duration(told.step * recipe.steps), steps),
        (duration(told.total), f"the run in all: {until(told.total)} if it began now"),
        (duration(evaluation), f"then `evaluate` with its defaults, {NETWORKS} networks"),
        (duration(5 / NETWORKS * evaluation), "or with --repeats 5"),
    ]
    work = [
        ("dataset", f"{real.name}, {len(real.train):,} images of {len(real.classes)} classes"),
        ("images", f"{told.ipc} per class, by recipe {recipe.name}"),
        ("device", f"{told.device}, {told.chunk} classes at once"),
        ("memory", f"{told.peak_memory / 1e9:.1f} GB"),
    ]
    show_rows({**recipe_rows(recipe), "What would be done": work, "How long it takes here": times})


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOutput(Output):
    """Where pools go.

    >>> PoolOutput(out=Path("runs/pools")).json
    False
    """

    out: Path
    """Folder of pools, each kept there by what it is made of. The same command again goes on."""
    seed: int = 0
    """Seed of the runs it is for; it matters where the recipe's `pool_seed` is not set."""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "choice": Part(kind=Choice, heading=Heading.MATCHED),
        "machine": Part(kind=Device, heading=Heading.WHERE),
        "output": Part(kind=PoolOutput, heading=Heading.OUTPUT),
    },
)
def pool(data: Data, choice: Choice, machine: Device, output: PoolOutput) -> None:
    """Train the pool of networks that a recipe matches under, for many runs to share.

    \b
    condensekit pool --recipe dance --dataset cifar10 --data-dir DIR --out runs/pools
    condensekit condense --recipe dance --pools runs/pools --dataset cifar10 --data-dir DIR \\
        --out runs/dance
    """
    from condense.data.preprocess import make_preprocess
    from condense.device import pick_device
    from condense.runs.pools import pool_of, steps_of

    real = data.load()
    recipe = choice.resolve(real, 1, {})
    if not recipe.pool:
        raise UserError(f"recipe `{recipe.name}` has no pool: add one by --set pool=5")
    pool_of(
        real, recipe, make_preprocess(recipe.preprocess, real), seed=output.seed,
        device=pick_device(machine.device), shared=output.out, quiet=False,
    )  # fmt: skip
    facts = {"folder": str(output.out), "networks": recipe.pool, "steps": steps_of(recipe, real)}
    show_facts(facts, output.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """How many experts are trained.

    >>> Count().count
    100
    """

    count: int = 100
    """Experts; a folder that has some is filled up to so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsOutput(Output):
    """Where experts go.

    >>> ExpertsOutput(out=Path("runs/experts")).json
    False
    """

    out: Path
    """Folder for the experts. The same command again goes on."""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "amount": Part(kind=Count, heading=Heading.HOW_MUCH),
        "training": Part(
            kind="condense.training.experts:Training",
            heading=Heading.TRAINED,
            elsewhere={"passes": Heading.HOW_MUCH, "storage": Heading.OUTPUT},
        ),
        "machine": Part(kind=Device, heading=Heading.WHERE),
        "output": Part(kind=ExpertsOutput, heading=Heading.OUTPUT),
    },
)
def experts(
    data: Data, amount: Count, training: "Training", machine: Device, output: ExpertsOutput
) -> None:
    """Train networks on the whole real set and keep their weights after every pass, for mtt.

    \b
    condensekit experts --dataset cifar10 --data-dir DIR --out runs/experts
    condensekit condense --method mtt --experts runs/experts --dataset cifar10 --data-dir DIR \\
        --out runs/mtt
    """
    from condense.networks.factories import adopt_named
    from condense.training.experts import train_experts

    adopt_named(training.network)
    made = train_experts(data.load(), training, amount.count, output.out, device=machine.device)
    facts = {"folder": str(output.out), "experts": made.count, "passes": made.passes}
    show_facts(facts, output.json)
