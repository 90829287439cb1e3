"""The full-scale results, worked out a few minutes at a time: `python -m benchmarks.campaign --budget 9m --data-dir DIR`.

Jobs are done in order of value (`--list` shows it). A job keeps in the results folder, and a later call, on this machine or
on another of the kind, goes on from,

NAME.json           what was measured, each part with the command, versions, machine and seconds behind it
NAME.safetensors    the condensed set, as uint8; in the folder `large` if it is too large for the repository
NAME.run/           only while the job is under way: the run to be resumed, and then its float32 set, which is what is evaluated

The end of the budget is a Ctrl-C by the clock: a condensation saves its state and stops, and of an evaluation the network
being trained is lost. Killed outright, a job goes on from its last checkpoint, or its last finished network. The streams are in
`benchmarks/campaign_continual.py`, the architecture searches in `benchmarks/campaign_nas.py`; both keep every single training.
"""

import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from benchmarks import campaign_continual, campaign_nas, campaign_tables, results
from condense import CondensedSet, Protocol, Recipe, Score, UserError, condense, load_dataset, resolve, resume
from condense.data import Dataset
from condense.device import pick_device
from condense.evaluate import check_belongs, train_many
from condense.files import read_json, write_bytes, write_json
from condense.folder import locked
from condense.progress import progress
from condense.randomness import derive
from condense.run import Interrupted
from condense.train import resolve as resolve_protocol

CHECKPOINT_EVERY = 500
KEPT_BYTES = 500_000
"""Largest file of a set that is kept beside its record. Others lie in the folder `large`, which git ignores: a CIFAR-100 set
at IPC 50 has 15 MB of pixels, and every set under ZCA a matrix of 38 MB."""
RECIPES: dict[str, tuple[str, dict[str, Any], float]] = {
    "scale100": ("paper", {"loss_scale": 100.0}, 1),
    "best": ("best", {}, 1),
    "paper": ("paper", {}, 2),
    "dm": ("dm", {}, 2),
    "official-code": ("official-code", {}, 2),
    "scale100-standard": ("paper", {"loss_scale": 100.0, "preprocess": "standard"}, 2),
    "paper-standard": ("paper", {"preprocess": "standard"}, 4),
    "official-code-zca": ("official-code", {"preprocess": "zca"}, 4),
}
"""Name of a line -> recipe, what is changed in it, and how many times cheaper than the first it must be to come as early."""
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


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
        epochs=1000,
        streams=campaign_continual.FULL,
        nas=campaign_nas.Scale(),
        tables="full",
    ),
    "smoke": Scale(settings=(("digits", 1),), recipes=("scale100", "dm"), changes=_TINY, seeds=2, repeats=3, epochs=4),
    "smoke-continual": Scale(settings=(), changes={}, seeds=0, repeats=0, epochs=0, streams=campaign_continual.SMOKE),
    "smoke-nas": Scale(settings=(), changes={}, seeds=0, repeats=0, epochs=0, nas=campaign_nas.SMOKE),
    "smoke-tables": Scale(settings=(), changes={}, seeds=0, repeats=0, epochs=0, tables="smoke"),
}


class Workplace:
    """Where jobs find the datasets and leave what they did."""

    def __init__(self, out: Path, data_dir: str | None, flags: str) -> None:
        self.out, self.data_dir, self._flags = out, data_dir, flags
        self.dataset: Callable[[str], Dataset] = cache(lambda name: load_dataset(name, data_dir))

    def record(self, name: str) -> dict[str, Any]:
        """What is known of a job: `finished`, `note` (how far it is) and whatever the job adds."""
        path = self.out / f"{name}.json"
        return read_json(path) if path.exists() else {"name": name, "finished": False, "note": "to do"}

    def keep(self, record: dict[str, Any], note: str) -> None:
        """Write a job's record."""
        record["note"] = note
        write_json(self.out / f"{record['name']}.json", record)

    @contextmanager
    def leg(self, record: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
        """An entry of the list `part` of a record for what is done inside: its conditions and, once it has ended, its seconds."""
        command = f"python -m benchmarks.campaign {self._flags}--only {record['name']}"
        entry: dict[str, Any] = {"seconds": None, "conditions": results.conditions() | {"command": command}}
        record.setdefault(part, []).append(entry)
        began = time.monotonic()
        try:
            yield entry
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            self.keep(record, record["note"])

    def keep_set(self, condensed: CondensedSet, name: str) -> Path:
        """Save a job's set as uint8, in the folder `large` if the file is; returns where, from the results' folder."""
        large = self.out / "large" / f"{name}.safetensors"
        large.parent.mkdir(exist_ok=True)
        condensed.save(large, storage="uint8")
        if large.stat().st_size > KEPT_BYTES:
            return large.relative_to(self.out)
        return large.rename(self.out / large.name).relative_to(self.out)


@dataclass(frozen=True, slots=True)
class Job:
    """One entry of the campaign. `work` does all that is left of it, keeping what is done; it may be stopped at any time."""

    order: float
    """Jobs are done in ascending order: for those here, what they cost, times the seeds already done, times the line's factor."""
    name: str
    work: Callable[[Workplace, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One condensed set of the table, and the networks trained on it."""

    dataset: str
    ipc: int
    line: str
    recipe: Recipe
    seed: int
    repeats: int
    protocol: Protocol


def jobs(scale: Scale) -> list[Job]:
    """All jobs, the most valuable first."""
    found = []
    for dataset, ipc in scale.settings:
        for line in scale.recipes:
            recipe_name, changes, factor = RECIPES[line]
            # The resolution matters to a recipe from 64 pixels on only: no dataset here is that large.
            recipe = resolve(recipe_name, dataset, (3, 32, 32), ipc).override(changes | scale.changes)
            protocol = Protocol(epochs=scale.epochs, augment=resolve_protocol("dm", dataset).augment)
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
    found += [Job(order, name, work) for order, name, work in campaign_continual.plan(scale.streams)]
    if scale.nas is not None:
        found += [Job(order, name, work) for order, name, work in campaign_nas.plan(scale.nas)]
    if scale.tables is not None:
        found += [Job(order, name, work) for order, name, work in campaign_tables.plan(scale.tables)]
    return sorted(found, key=lambda job: job.order)


def condense_and_evaluate(place: Workplace, name: str, *, cell: Cell) -> None:
    """Condense a set, then train networks of the recipe's own architecture on it and test them on the whole test set."""
    record = place.record(name)
    record |= {
        "dataset": cell.dataset,
        "ipc": cell.ipc,
        "line": cell.line,
        "recipe": cell.recipe.to_json(),
        "seed": cell.seed,
        "epochs": cell.protocol.epochs,
        "evaluated": "the float32 set, by networks of the recipe's architecture, on the whole test set",
    }
    run = place.out / f"{name}.run"
    condensed, dataset = _condensed(place, record, run, cell), place.dataset(cell.dataset)
    check_belongs(condensed, dataset)
    first, device = len(_accuracies(record)), pick_device("auto")
    test = condensed.preprocess.apply(dataset.test.pixels).to(device), dataset.test.labels.to(device)
    seed = derive(cell.seed, "campaign")
    with progress(f"{name} networks", cell.repeats, first) as told, place.leg(record, "evaluate") as leg:
        leg["accuracies"] = []
        for value in train_many(cell.recipe.network, condensed, test, cell.repeats, cell.protocol, seed, device, first=first):
            leg["accuracies"].append(value)
            done = len(_accuracies(record))
            told(done, f"{value:.1%}")
            place.keep(record, f"condensed, {done} of {cell.repeats} networks")
    score = Score(tuple(_accuracies(record)))
    place.keep(record | {"finished": True, "score": score.to_json()}, f"accuracy {score.mean:.2%}, std {score.std:.2%}")
    shutil.rmtree(run)


def _condensed(place: Workplace, record: dict[str, Any], run: Path, cell: Cell) -> CondensedSet:
    """The float32 set of a cell, from its run folder: finished, gone on with, or begun."""
    if (run / "set.safetensors").exists() and "set" in record:
        return CondensedSet.load(run)
    dataset = place.dataset(cell.dataset)
    begun = (run / "run.json").exists()
    if begun and (theirs := read_json(run / "run.json")["job"]["device"]) != pick_device("auto").type:
        raise UserError(f"{run} was begun on {theirs}: go on with it there, or delete it")
    try:
        with place.leg(record, "condense"):
            condensed = resume(run, dataset) if begun else _begin(dataset, run, cell)
    except (Interrupted, KeyboardInterrupt) as stopped:
        place.keep(record, str(stopped).split(";")[0] or "begun")
        raise
    finally:
        _lighten(run)
    record["set"] = str(place.keep_set(condensed, record["name"]))
    moved = (CondensedSet.load(place.out / record["set"]).images - condensed.images).square().mean().sqrt()
    record["uint8_moves_pixels_by"] = round(float(moved / condensed.images.std()), 4)  # rms, in standard deviations
    place.keep(record, "condensed")
    return condensed


def _begin(dataset: Dataset, run: Path, cell: Cell) -> CondensedSet:
    return condense(
        dataset, ipc=cell.ipc, recipe=cell.recipe, seed=cell.seed, out=run, checkpoint_every=CHECKPOINT_EVERY
    )  # fmt: skip


def _accuracies(record: dict[str, Any]) -> list[float]:
    return [value for leg in record.get("evaluate", []) for value in leg.get("accuracies", [])]


def _lighten(run: Path) -> None:
    """Leave of a run folder what going on needs, to be carried to the next machine: its record, and the set or the state."""
    finished = (run / "set.safetensors").exists()
    needed = {"run.json", "set.safetensors"} if finished else {"run.json", "start.safetensors", "pool", "checkpoints"}
    for path in run.glob("*"):
        if path.is_dir() and path.name not in needed:
            shutil.rmtree(path)
        elif path.name not in needed:
            path.unlink()
    for old in sorted((run / "checkpoints").glob("step-*"))[:-1]:
        old.unlink()


def table(out: Path) -> list[str]:
    """The finished jobs of the folder as a Markdown table, a row for each dataset, IPC and line."""
    records = [read_json(path) for path in sorted(out.glob("*.json"))]
    cells = sorted((one for one in records if one["finished"] and "line" in one), key=_row)
    lines = ["| dataset | IPC | line | accuracy, % | 95 % interval | std | sets x networks |", "|---|---|---|---|---|---|---|"]
    for (dataset, ipc, line), group in groupby(cells, key=_row):
        runs = [_accuracies(one) for one in group]
        score = Score(tuple(value for run in runs for value in run), len(runs))
        low, high = (100 * end for end in score.ci95)
        lines.append(
            f"| {dataset} | {ipc} | {line} | {100 * score.mean:.2f} | {low:.2f} to {high:.2f} "
            f"| {100 * score.std:.2f} | {len(runs)} x {len(runs[0])} |"
        )
    return lines


def _row(record: dict[str, Any]) -> tuple[str, int, str]:
    return record["dataset"], record["ipc"], record["line"]


def seconds_of(text: str) -> float:
    """`90s`, `9m`, `2h` or `1h30m` in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise UserError(f"--budget {text}: give hours, minutes or seconds, such as 2h, 9m or 90s")
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


@contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """When the time is up, what is inside gets a Ctrl-C; a scheduler's SIGTERM is one too."""
    handlers = {
        signal.SIGALRM: lambda *_: signal.raise_signal(signal.SIGINT),
        signal.SIGTERM: signal.default_int_handler,
        signal.SIGINT: signal.default_int_handler,  # a shell's background job starts with it ignored
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))  # 0 would be never
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def work(chosen: list[Job], place: Workplace, budget: float) -> tuple[str, int]:
    """Do jobs until the budget ends; how it ended, and the jobs that failed. A failure is told and the next job taken."""
    end, failed = time.monotonic() + budget, 0
    try:
        with ending_after(budget):
            for job in chosen:
                if place.record(job.name)["finished"]:
                    continue
                try:
                    job.work(place, job.name)
                except Interrupted:
                    raise  # the end of the budget is no fault of the job
                except UserError as error:
                    failed += 1
                    click.echo(f"{job.name}: failed: {error}", err=True)
                except Exception:  # a job's fault must not cost the others their time
                    failed += 1
                    click.echo(f"{job.name}: failed\n{traceback.format_exc()}", err=True)
                else:
                    click.echo(f"{job.name}: {place.record(job.name)['note']}")
    except (Interrupted, KeyboardInterrupt):
        return ("the budget is used up" if time.monotonic() >= end else "interrupted"), failed
    return ("all that could be done is done" if failed else "all done"), failed


@click.command()
@click.option("--budget", default="9m", show_default=True, help="Time to work, such as 90s, 9m or 2h.")
@click.option("--list", "list_", is_flag=True, help="Show the jobs, in order, and how far each is; do nothing.")
@click.option("--only", "pattern", default="*", help="Jobs whose name matches, such as 'cifar10-*'.")
@click.option("--data-dir", type=click.Path(), help="Folder with CIFAR-10 and CIFAR-100 as torchvision keeps them.")
@click.option("--out", type=click.Path(path_type=Path), default=results.FOLDER / "campaign", help="Folder of the results.")
@click.option("--scale", default="full", show_default=True, type=click.Choice(list(SCALES)))
def main(budget: str, list_: bool, pattern: str, data_dir: str | None, out: Path, scale: str) -> None:
    """Work through the full-scale jobs, the most valuable first, within a time budget."""
    chosen = [job for job in jobs(SCALES[scale]) if fnmatch(job.name, pattern)]
    try:
        time_left = seconds_of(budget)
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
            ended, failed = work(chosen, place, time_left)
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
