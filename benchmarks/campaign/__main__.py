"""The full-scale results, a few minutes at a time: `python -m benchmarks.campaign --data-dir DIR`.

Jobs are done in order of value (`--list` shows it). A job keeps in the results folder, and a later
call, on this machine or on another of the kind, goes on from,

NAME.json           what was measured, each part with its command, versions, machine and seconds
NAME.safetensors    the condensed set, as uint8; in the folder `large` if it is too large for git
NAME.run/           while the job is under way: the run, and then its float32 set to be evaluated
networks.sqlite     the accuracy of every network trained on a set, which the tables share
nas.sqlite          the trainings of the searches

Several processes may work on one folder: a job that another one has begun is passed over. The
networks of the pools that sets are matched under are in `large/pools`, and serve every set.

The end of the time is a Ctrl-C by the clock: a condensation saves its state and stops, and the
networks being trained are lost. Killed outright, a job goes on from its last checkpoint and its
last finished network.
"""

import contextlib
import sys
import traceback
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any, Literal

import click
from filelock import Timeout

from benchmarks import ledger, results
from benchmarks.campaign import searches, streams, tables
from benchmarks.campaign.searches import SearchScale
from benchmarks.campaign.sets import CLASSES, LINES, SetJob, condense_and_evaluate
from benchmarks.campaign.streams import Streams
from benchmarks.campaign.workplace import Planned, Work, Workplace
from benchmarks.options import StudyCommand
from benchmarks.tables.bench import Trained
from condense import Protocol, Recipe, UserError
from condense.command import guard
from condense.data.catalogue import Source
from condense.reading import read_json
from condense.runs.shelf import Made
from condense.study.interrupt import Interrupted, stoppable
from condense.study.workers import Workers
from condense.training.protocol import protocol_for
from condense.writing import write_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignScale:
    """How much is done for each line."""

    settings: tuple[tuple[str, int], ...] = ()
    """Dataset and images per class."""
    sets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LINES, 5))
    """The number of sets of each line."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What is changed in every recipe."""
    repeats: int = 20
    epochs: int = 1001
    streams: Streams = field(default_factory=dict)
    """Class-incremental streams too."""
    nas: SearchScale | None = None
    """Architecture search too."""
    tables: str | None = None
    """The tables of `benchmarks.tables` too, at that scale of theirs."""


_CIFAR = tuple((dataset, ipc) for dataset in ("cifar10", "cifar100") for ipc in (1, 10, 50))
SCALES = {
    "full": CampaignScale(settings=_CIFAR, streams=streams.FULL, nas=SearchScale(), tables="full"),
    "cpu": CampaignScale(
        settings=_CIFAR[:-1],
        sets={
            "random": 3,
            "herding": 1,
            "dm": 1,
            "datadam": 3,
            "datadam-256": 1,
            "official-code": 1,
            "best": 3,
        },
        changes={"real_batch": 64},
        repeats=5,
    ),
    "smoke": CampaignScale(
        settings=(("digits", 1),),
        sets={"datadam": 2, "dm": 2},
        changes={"steps": 8, "real_batch": 8, "network": "convnet-d2-w8"},
        repeats=3,
        epochs=4,
    ),
    "smoke-continual": CampaignScale(streams=streams.SMOKE),
    "smoke-nas": CampaignScale(nas=searches.SMOKE),
    "smoke-tables": CampaignScale(tables="smoke"),
}


@dataclass(frozen=True, slots=True)
class CampaignJob:
    """One entry of the campaign."""

    order: float
    """Ascending; for sets: the cost, times the seeds already done, times the factor of the line."""
    name: str
    work: Work
    """Does all that is left, and keeps what is done; it may be stopped at any time."""


def jobs(scale: CampaignScale) -> list[CampaignJob]:
    """All jobs, the most valuable first."""
    planned = [*_set_jobs(scale), *streams.plan(scale.streams)]
    planned += scale.nas.plan() if scale.nas else []
    planned += tables.plan(scale.tables) if scale.tables else []
    return sorted(starmap(CampaignJob, planned), key=lambda job: job.order)


def _set_jobs(scale: CampaignScale) -> Planned:
    """The jobs of sets: the images each takes through a network, its name, its work."""
    for (dataset, ipc), name in product(scale.settings, scale.sets):
        line = LINES[name]
        how = line.how(dataset, ipc, scale.changes)
        network = how.network if isinstance(how, Recipe) else "convnet"
        protocol = Protocol(epochs=scale.epochs, augment=protocol_for("dm", dataset).augment)
        trained = Trained(network=network, protocol=protocol, repeats=scale.repeats)
        # A backward pass counts as two forward ones.
        decoded = ipc * (how.formation**2 if isinstance(how, Recipe) else 1)
        images = how.steps * (how.real_batch + 3 * decoded) if isinstance(how, Recipe) else 0
        images += 3 * scale.repeats * scale.epochs * decoded
        for seed in range(scale.sets[name]):
            made = Made(source=Source(name=dataset), ipc=ipc, seed=seed, how=how)
            job = SetJob(line=name, made=made, trained=trained)
            order = images * CLASSES[dataset] * (1 + seed) * line.factor
            work = partial(condense_and_evaluate, job=job)
            yield order, f"{dataset}-ipc{ipc}-{name}-seed{seed}", work


def work(chosen: list[CampaignJob], place: Workplace, minutes: float) -> tuple[str, int]:
    """Do jobs until the time is up; how it ended, and how many failed. A failure stops no other."""
    failed = 0
    with stoppable(minutes) as time_is_up:
        try:
            for job in chosen:
                if not place.record(job.name)["finished"]:
                    with contextlib.suppress(Timeout), place.owned(job.name):
                        failed += not _worked(job, place)
        except (Interrupted, KeyboardInterrupt):
            return ("the time is up" if time_is_up() else "interrupted"), failed
    return ("all that could be done is done" if failed else "all done"), failed


def _worked(job: CampaignJob, place: Workplace) -> bool:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Which jobs are done."""

    list: bool = False
    """Show the jobs, in order, and how far each is, only."""
    only: str = "*"
    """Jobs whose name matches, such as 'cifar10-*'."""
    data_dir: str | None = None
    """Folder with CIFAR-10 and CIFAR-100 as torchvision keeps them."""
    out: Path = results.FOLDER / "campaign"
    """Folder of the results."""
    scale: Literal["full", "cpu", "smoke", "smoke-continual", "smoke-nas", "smoke-tables"] = "full"
    """How much is done."""


@click.command(cls=StudyCommand, asked=Asked, minutes=9.0)
def main(asked: Asked, workers: Workers, minutes: float) -> None:
    """Work through the full-scale jobs, the most valuable first, within a time."""
    out, scale = asked.out, asked.scale
    chosen = [job for job in jobs(SCALES[scale]) if fnmatch(job.name, asked.only)]
    if not chosen:
        raise UserError(f"--only {asked.only}: no job has such a name; --list shows them")
    flags = "" if scale == "full" else f"--scale {scale} "
    place = Workplace(out, asked.data_dir, flags, workers)
    if asked.list:
        for job in chosen:
            click.echo(f"{job.name:<44} {place.record(job.name)['note']}")
        return
    ended, failed = work(chosen, place, minutes)
    left = [job.name for job in chosen if not place.record(job.name)["finished"]]
    table = ledger.lines(read_json(path) for path in sorted(out.glob("*.json")))
    if len(table) > 2:
        write_bytes(out / "table.md", "\n".join([*table, ""]).encode())
    click.echo(f"{ended}: {len(chosen) - len(left)} of {len(chosen)} jobs done, {failed} failed")
    for name in left[:5]:
        click.echo(f"left: {name}: {place.record(name)['note']}")
    if len(left) > 5:
        click.echo(f"left: {len(left) - 5} more (--list shows them)")
    sys.exit(130 if ended == "interrupted" else int(failed > 0))


if __name__ == "__main__":
    guard.run(main)
