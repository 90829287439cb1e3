"""The command: `python -m benchmarks.tables TABLE --scale SCALE --data-dir DIR`."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from benchmarks.options import StudyCommand
from benchmarks.tables import accuracy, run
from benchmarks.tables.bench import TableWork
from benchmarks.tables.lines import SCALES
from condense.study.interrupt import Interrupted, stoppable
from condense.study.record import locked
from condense.study.workers import Workers

ABOUT = {
    "main": "Accuracy by method, dataset and images per class: the paper's first table, and the "
    "generative models' (11).",
    "order": "Random, DM, DataDAM and `best` with twice the sets of the main table, so that their "
    "order can be told.",
    "high-resolution": "Random, DM and DataDAM on ImageNet and its subsets: the second table.",
    "cross": "Sets made with one architecture, networks of another trained on them: the third "
    "table.",
    "ablation": "DataDAM with one thing changed at a time: tables 5 to 7, figures 3, 4, 8 to 13.",
    "cost": "Seconds a step and peak memory by method and images per class, in one run: table 4. "
    "Points are measured one by one, whatever the workers.",
    "embedding": "t-SNE of real and synthetic images in the embedding of a ResNet-18, one picture "
    "a method: figure 5.",
}

_OPTIONS = [
    click.option("--scale", default="cpu", show_default=True, type=click.Choice(list(SCALES))),
    click.option("--data-dir", type=click.Path(), help="Folder with the datasets."),
    click.option(
        "--work", default="runs/tables", show_default=True, type=click.Path(path_type=Path)
    ),
    click.option("--name", help="Name of the result files.  [default: tables_<table>_<scale>]"),
]
"""What every table takes."""
_CHOICE = [
    click.option("--only", "rows", multiple=True, help="Rows to work on, such as 'dm*'."),
    click.option("--column", "columns", multiple=True, help="Columns, such as '*IPC 10'."),
]
"""What a table of accuracies takes besides. All of it is shown, as far as it is known."""


@click.group()
def main() -> None:
    """The tables of the DataDAM paper, measured here. A killed command goes on."""


def _add(table: str) -> None:
    """The command of a table."""

    def command(
        *,
        scale: str,
        data_dir: str | None,
        work: Path,
        name: str | None,
        workers: Workers,
        minutes: float | None,
        **chosen: Any,
    ) -> None:
        with locked(work), stoppable(minutes) as time_is_up:
            try:
                with closing(TableWork(work, data_dir, workers)) as opened:
                    run.TABLES[table](scale, opened, name or run.title(table, scale), **chosen)
            except (Interrupted, KeyboardInterrupt) as stopped:
                click.echo(str(stopped) or "stopped; the same command goes on", err=True)
                if not time_is_up():
                    sys.exit(130)

    for option in reversed(_OPTIONS + _CHOICE * (table in accuracy.TABLES)):
        option(command)
    main.command(table, cls=StudyCommand, help=ABOUT[table])(command)


for _table in run.TABLES:
    _add(_table)

if __name__ == "__main__":
    main()
