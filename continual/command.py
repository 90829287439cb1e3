"""The `continual` command: parse, call, print; no logic."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from condense.command.shared import Data
from condense.errors import UserError
from condense.options import Command, Heading, Part

if TYPE_CHECKING:
    from continual.plan import Plan

_DATASET = "cifar100"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The methods that fill the memories.

    >>> Compared(method=("random",)).method
    ('random',)
    """

    method: tuple[str, ...] = ()
    """`random`, `herding`, `kcenter`, `datadam`, `dm` (settings as in
    `datadam:loss_scale=100,lr=1`), a set's path, or `class-balanced` (Avalanche's own, in replay);
    may be repeated.  [default: random, herding, datadam:loss_scale=100, and in replay
    class-balanced]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a run is kept, and whether it is a new one.

    >>> Run().out.name
    'continual'
    """

    out: Path = Path("runs/continual")
    """Run folder, made here."""
    cache: Path | None = None
    """Folder of memories that several runs share; one in `--out` unless given."""
    resume: Path | None = None
    """Go on with the run in this folder; no other flag is needed."""
    json: bool = False
    """Print one JSON document on stdout, for machines."""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "compared": Part(kind=Compared, heading=Heading.WHAT),
        "plan": Part(
            kind="continual.plan:Plan",
            heading=Heading.HOW_MUCH,
            elsewhere={
                "classes": Heading.WHAT,
                "mode": Heading.TRAINED,
                "strategy": Heading.TRAINED,
                "network": Heading.TRAINED,
                "epochs": Heading.TRAINED,
                "batch": Heading.TRAINED,
                "device": Heading.WHERE,
                "storage": Heading.OUTPUT,
            },
            leave=("methods",),
            defaults={"steps": 10},
        ),
        "output": Part(kind=Run, heading=Heading.OUTPUT),
    },
)
def continual(data: Data, compared: Compared, plan: "Plan", output: Run) -> None:
    """Measure condensed memories in class-incremental learning, on CIFAR-100 unless told otherwise.

    \b
    condensekit continual --steps 10 --data-dir DIR --out runs/cl
    condensekit continual --resume runs/cl
    condensekit continual --steps 5 --dataset digits --ipc 2 --epochs 100 --condense-steps 100
    condensekit continual --steps 5 --dataset digits --mode replay --strategy er-ace --out runs/er
    """
    from continual import study
    from continual.plan import METHODS

    if output.resume is not None:
        measured, folder = study.resume(output.resume, quiet=output.json), output.resume
    else:
        source = dataclasses.replace(data, dataset=data.dataset or _DATASET).source()
        try:
            real = source.load(download=data.download)
        except UserError as error:
            hint = "" if data.dataset else "; or try it without any files: --dataset digits"
            raise UserError(f"{error}{hint}") from None
        plan = dataclasses.replace(plan, methods=compared.method or METHODS[plan.mode])
        measured = study.run(
            real, plan, output.out, source=source, cache=output.cache, quiet=output.json
        )
        folder = output.out
    if output.json:
        click.echo(json.dumps(measured.to_json(), indent=2))
        return
    from rich.console import Console

    from continual.results import live

    Console().print(live(measured))
    click.echo(f"report           {folder / 'report.html'}")
