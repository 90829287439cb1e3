"""The full-scale results, worked out a few minutes at a time: `python -m benchmarks.campaign --minutes 9 --data-dir DIR`.

Jobs are done in order of value (`--list` shows it). A job keeps in the results folder, and a later call, on this machine or
on another of the kind, goes on from,

NAME.json           what was measured, each part with the command, versions, machine and seconds behind it
NAME.safetensors    the condensed set, as uint8; in the folder `large` if it is too large for the repository
NAME.run/           only while the job is under way: the run to be resumed, and then its float32 set, which is what is evaluated

The end of the time is a Ctrl-C by the clock: a condensation saves its state and stops, and of an evaluation the network
being trained is lost. Killed outright, a job goes on from its last checkpoint, or its last finished network. The streams are in
`benchmarks/campaign_continual.py`, the architecture searches in `benchmarks/campaign_nas.py`; both keep every single training.
"""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.campaign import searches as campaign_nas
from benchmarks.campaign import streams as campaign_continual
from benchmarks.campaign import tables as campaign_tables
from benchmarks.campaign.sets import CLASSES, RECIPES, Cell, accuracies_of, condense_and_evaluate
from benchmarks.campaign.workplace import Workplace
from condense import Protocol, Score, UserError, recipe_for
from condense.files import read_json, write_bytes
from condense.study.interrupt import Interrupted, stoppable
from condense.study.record import locked
from condense.training.train import protocol_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is done for each line."""

    settings: tuple[tuple[str, int], ...]
    """Dataset and images per class."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    changes: dict[str, Any]
    """What is changed in every recipe."""
    seeds: int
    repeats: int
    epochs: int
    streams: campaign_continual.Streams = field(default_factory=dict)
    """Class-incremental streams too."""
    nas: campaign_nas.Scale | None = None
    """Architecture search too."""
    tables: str | None = None
    """The tables of `benchmarks.tables` too, at that scale of theirs."""


_CIFAR = tuple((dataset, ipc) for dataset in ("cifar10", "cifar100") for ipc in (1, 10, 50))
_TINY = {"steps": 8, "real_batch": 8, "network": "convnet-d2-w8"}
SCALES = {
    "full": Scale(
        settings=_CIFAR,
        changes={},
        seeds=5,
        repeats=20,
        epochs=1001,
        streams=campaign_continual.FULL,
        nas=campaign_nas.Scale(),
        tables="full",
    ),
    "smoke": Scale(
        settings=(("digits", 1),),
        recipes=("scale100", "dm"),
        changes=_TINY,
        seeds=2,
        repeats=3,
        epochs=4,
    ),
    "smoke-continual": Scale(
        settings=(), changes={}, seeds=0, repeats=0, epochs=0, streams=campaign_continual.SMOKE
    ),
    "smoke-nas": Scale(
        settings=(), changes={}, seeds=0, repeats=0, epochs=0, nas=campaign_nas.SMOKE
    ),
    "smoke-tables": Scale(settings=(), changes={}, seeds=0, repeats=0, epochs=0, tables="smoke"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One entry of the campaign. `work` does all that is left of it, keeping what is done; it may be stopped at any time."""

    order: float
    """Jobs are done in ascending order: for those here, what they cost, times the seeds already done, times the line's factor."""
    name: str
    work: Callable[[Workplace, str], None]


def jobs(scale: Scale) -> list[Job]:
    """All jobs, the most valuable first."""
    found = []
    for dataset, ipc in scale.settings:
        for line in scale.recipes:
            recipe_name, changes, factor = RECIPES[line]
            # The resolution matters to a recipe from 64 pixels on only: no dataset here is that large.
            recipe = recipe_for(recipe_name, dataset, (3, 32, 32), ipc).override(
                changes | scale.changes
            )
            protocol = Protocol(epochs=scale.epochs, augment=protocol_for("dm", dataset).augment)
            # In images through a network, a backward pass counted as two.
            decoded = ipc * recipe.formation**2
            condensing = recipe.steps * CLASSES[dataset] * (recipe.real_batch + 3 * decoded)
            training = 3 * scale.repeats * scale.epochs * CLASSES[dataset] * decoded
            for seed in range(scale.seeds):
                cell = Cell(
                    dataset=dataset, ipc=ipc, line=line, recipe=recipe, seed=seed, repeats=scale.repeats, protocol=protocol
                )  # fmt: skip
                work = partial(condense_and_evaluate, cell=cell)
                order = (condensing + training) * (1 + seed) * factor
                found.append(Job(order, f"{dataset}-ipc{ipc}-{line}-seed{seed}", work))
    found += [
        Job(order, name, work) for order, name, work in campaign_continual.plan(scale.streams)
    ]
    if scale.nas is not None:
        found += [Job(order, name, work) for order, name, work in campaign_nas.plan(scale.nas)]
    if scale.tables is not None:
        found += [
            Job(order, name, work) for order, name, work in campaign_tables.plan(scale.tables)
        ]
    return sorted(found, key=lambda job: job.order)


def table(out: Path) -> list[str]:
    """The finished jobs of the folder as a Markdown table, a row for each dataset, IPC and line."""
    records = [read_json(path) for path in sorted(out.glob("*.json"))]
    cells = sorted((one for one in records if one["finished"] and "line" in one), key=_row)
    lines = [
        "| dataset | IPC | line | accuracy, % | 95 % interval | std | sets x networks |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dataset, ipc, line), group in groupby(cells, key=_row):
        runs = [accuracies_of(one) for one in group]
        score = Score(tuple(value for run in runs for value in run), len(runs))
        low, high = (100 * end for end in score.ci95)
        lines.append(
            f"| {dataset} | {ipc} | {line} | {100 * score.mean:.2f} | {low:.2f} to {high:.2f} "
            f"| {100 * score.std:.2f} | {len(runs)} x {len(runs[0])} |"
        )
    return lines


def _row(record: dict[str, Any]) -> tuple[str, int, str]:
    return record["dataset"], record["ipc"], record["line"]


def work(chosen: list[Job], place: Workplace, minutes: float) -> tuple[str, int]:
    """Do jobs until the time is up: how it ended, and the number of jobs that failed.

    A failure is printed and the next job taken.
    """
    failed = 0
    with stoppable(minutes) as time_is_up:
        try:
            for job in chosen:
                if not place.record(job.name)["finished"]:
                    failed += not _worked(job, place)
        except (Interrupted, KeyboardInterrupt):
            return ("the time is up" if time_is_up() else "interrupted"), failed
    return ("all that could be done is done" if failed else "all done"), failed


def _worked(job: Job, place: Workplace) -> bool:
    """Do a job; whether it succeeded. A fault of one must not cost the others their time."""
    try:
        job.work(place, job.name)
    except Interrupted:
        raise  # the end of the time is no fault of the job
    except UserError as error:
        click.echo(f"{job.name}: failed: {error}", err=True)
    except Exception:
        click.echo(f"{job.name}: failed\n{traceback.format_exc()}", err=True)
    else:
        click.echo(f"{job.name}: {place.record(job.name)['note']}")
        return True
    return False


@click.command()
@click.option("--minutes", default=9.0, show_default=True, help="Time to work.")
@click.option(
    "--list",
    "list_",
    is_flag=True,
    help="Show the jobs, in order, and how far each is; do nothing.",
)
@click.option(
    "--only", "pattern", default="*", help="Jobs whose name matches, such as 'cifar10-*'."
)
@click.option(
    "--data-dir",
    type=click.Path(),
    help="Folder with CIFAR-10 and CIFAR-100 as torchvision keeps them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=results.FOLDER / "campaign",
    help="Folder of the results.",
)
@click.option("--scale", default="full", show_default=True, type=click.Choice(list(SCALES)))
def main(
    minutes: float, list_: bool, pattern: str, data_dir: str | None, out: Path, scale: str
) -> None:
    """Work through the full-scale jobs, the most valuable first, within a time budget."""
    chosen = [job for job in jobs(SCALES[scale]) if fnmatch(job.name, pattern)]
    try:
        if not chosen:
            raise UserError(f"--only {pattern}: no job has such a name; --list shows them")
    except UserError as error:
        raise click.UsageError(str(error)) from None
    place = Workplace(out, data_dir, "" if scale == "full" else f"--scale {scale} ")
    if list_:
        for job in chosen:
            click.echo(f"{job.name:<44} {place.record(job.name)['note']}")
        return
    try:
        with locked(out):
            ended, failed = work(chosen, place, minutes)
    except UserError as error:
        raise click.UsageError(str(error)) from None
    left = [job.name for job in chosen if not place.record(job.name)["finished"]]
    if len(lines := table(out)) > 2:
        write_bytes(out / "table.md", "\n".join([*lines, ""]).encode())
    click.echo(f"{ended}: {len(chosen) - len(left)} of {len(chosen)} jobs done, {failed} failed")
    for name in left[:5]:
        click.echo(f"left: {name}: {place.record(name)['note']}")
    if len(left) > 5:
        click.echo(f"left: {len(left) - 5} more (--list shows them)")
    sys.exit(130 if ended == "interrupted" else int(failed > 0))


if __name__ == "__main__":
    main()
