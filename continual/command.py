"""The `continual` command: parse, call, print; no logic."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from condense.command.shared import Data
from condense.errors import UserError
from condense.options import Command, Heading, Part, check_resumed

if TYPE_CHECKING:
    from condense.study.workers import Workers
    from continual.plan import Plan
    from continual.results import Results

_DATASET = "cifar100"
_RESUMABLE = {"resume", "cache", "workers", "threads", "cluster", "minutes", "json"}
"""What may change from one session of a run to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The methods that fill the memories.

    >>> Compared(method=("random",)).method
    ('random',)
    """

    method: tuple[str, ...] = ()
    """`random`, `herding`, `kcenter`, `datadam`, `dm` (settings as in
    `datadam:loss_scale=100,lr=1`), a set's path; in replay also `class-balanced` (Avalanche's own),
    `finetune`, `joint`, `NAME+real` and `NAME+hard`; may be repeated.  [default: random, herding,
    datadam:loss_scale=100, and in replay class-balanced]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a run is kept, whether it is a new one, and how long this session of it lasts.

    >>> Run().out.name
    'continual'
    """

    out: Path = Path("runs/continual")
    """Run folder, made here."""
    cache: Path | None = None
    """Folder of memories that several runs share; one in `--out` unless given."""
    minutes: float | None = None
    """Stop after that long; what is finished is kept and reported, `--resume` goes on."""
    resume: Path | None = None
    """Go on with the run in this folder. Its plan stays; `--workers`, `--threads`, `--cluster`,
    `--minutes` and `--cache` may be given."""
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
        "workers": Part(
            kind="condense.study.workers:Workers",
            heading=Heading.WHERE,
            leave=("device",),
            defaults={"workers": 0},
        ),
        "output": Part(kind=Run, heading=Heading.OUTPUT, elsewhere={"minutes": Heading.WHERE}),
    },
)
def continual(
    data: Data, compared: Compared, plan: "Plan", workers: "Workers", output: Run
) -> None:
    """Measure condensed memories in class-incremental learning, on CIFAR-100 unless told otherwise.

    \b
    condensekit continual --steps 10 --data-dir DIR --out runs/cl
    condensekit continual --resume runs/cl
    condensekit continual --steps 5 --dataset digits --ipc 2 --epochs 100 --condense-steps 100
    condensekit continual --steps 5 --dataset digits --mode replay --strategy er-ace --out runs/er

    A run can be stopped or killed at any time: what is finished is kept, and --resume goes on.
    Networks are trained in this process, by --workers or on a --cluster; memories are always made
    in this process.
    """
    from continual import study
    from continual.plan import METHODS

    session: dict[str, Any] = {"workers": workers, "minutes": output.minutes}
    if output.resume is not None:
        check_resumed(click.get_current_context(), "run", _RESUMABLE)
        measured = study.resume(output.resume, cache=output.cache, **session)
    else:
        source = dataclasses.replace(data, dataset=data.dataset or _DATASET).source()
        try:
            real = source.load(download=data.download)
        except UserError as error:
            hint = "" if data.dataset else "; or try it without any files: --dataset digits"
            raise UserError(f"{error}{hint}") from None
        plan = dataclasses.replace(plan, methods=compared.method or METHODS[plan.mode])
        measured = study.run(real, plan, output.out, source=source, cache=output.cache, **session)
    _tell(measured, output.resume or output.out, output.json)


def _tell(measured: "Results", folder: Path, as_json: bool) -> None:
    """What is measured on stdout, and on stderr what is left when the time was up."""
    if as_json:
        click.echo(json.dumps(measured.to_json(), indent=2))
    else:
        from rich.console import Console

        from continual.results import live

        Console().print(live(measured))
        click.echo(f"report           {folder / 'report.html'}")
    for note in measured.notes:
        click.echo(note, err=True)
    if measured.left:
        tested = f"still to be tested: {measured.left} of {measured.total} networks"
        click.echo(f"{tested}; go on with `condensekit continual --resume {folder}`", err=True)
