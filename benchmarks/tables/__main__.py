"""The command: `python -m benchmarks.tables TABLE --scale SCALE --data-dir DIR`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.tables import accuracy, run
from benchmarks.tables.cells import Work
from benchmarks.tables.lines import SCALES
from condense import UserError
from condense.study.interrupt import Interrupted, stoppable
from condense.study.record import locked

ABOUT = {
    "main": "Accuracy by method, dataset and images per class: the paper's first table, and the generative models' (11).",
    "order": "Random, DM, DataDAM and `best` with twice the sets of the main table, so that their order can be told.",
    "high-resolution": "Random, DM and DataDAM on ImageNet and its subsets: the second table.",
    "cross": "Sets made with one architecture, networks of another trained on them: the third table.",
    "ablation": "DataDAM with one thing changed at a time: tables 5 to 7, figures 3, 4 and 8 to 13.",
    "cost": "Seconds a step and peak memory by method and images per class, in one run: table 4.",
    "embedding": "t-SNE of real and synthetic images in the embedding of a ResNet-18, one picture a method: figure 5.",
}


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What every table takes."""
    for option in reversed(
        [
            click.option(
                "--scale", default="cpu", show_default=True, type=click.Choice(list(SCALES))
            ),
            click.option("--data-dir", type=click.Path(), help="Folder with the datasets."),
            click.option(
                "--work", default="runs/tables", show_default=True, type=click.Path(path_type=Path)
            ),
            click.option(
                "--minutes", type=float, help="Stop after that long; started again it goes on."
            ),
            click.option("--device", default="auto", show_default=True),
            click.option(
                "--name", help="Name of the result files.  [default: tables_<table>_<scale>]"
            ),
        ]
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """The tables of the DataDAM paper, measured here. What was made is kept, so a killed command goes on."""


@contextmanager
def _working(
    data_dir: str | None, work: Path, minutes: float | None, device: str
) -> Iterator[Work]:
    """The work folder, this process's alone.

    Bad input is one line, the end of the time no failure, Ctrl-C exit code 130.
    """
    try:
        with locked(work), stoppable(minutes) as time_is_up:
            try:
                yield Work(work, data_dir, device)
            except (Interrupted, KeyboardInterrupt):
                click.echo("stopped: the same command goes on", err=True)
                if not time_is_up():
                    sys.exit(130)
    except UserError as error:
        raise click.UsageError(str(error)) from None


def _add(table: str) -> None:
    """The command of a table."""
    fillable = table in accuracy.TABLES

    def command(scale: str, name: str | None, **common: Any) -> None:
        chosen = {key: common.pop(key) for key in ("rows", "columns") if fillable}
        with _working(**common) as work:
            run.TABLES[table](scale, work, name or run.title(table, scale), **chosen)

    if fillable:
        command = click.option(
            "--only", "rows", multiple=True, help="Rows to work on, such as 'dm*'; all are shown."
        )(command)
        command = click.option(
            "--column", "columns", multiple=True, help="Columns to work on, such as '*IPC 10'."
        )(command)
    main.command(table, help=ABOUT[table])(options(command))


for _table in run.TABLES:
    _add(_table)

if __name__ == "__main__":
    main()
