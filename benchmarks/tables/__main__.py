"""The command: `python -m benchmarks.tables TABLE --scale SCALE --data-dir DIR`."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.options import StudyCommand
from benchmarks.tables import accuracy, run
from benchmarks.tables.bench import TableWork
from condense.command import guard
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What every table is asked for."""

    scale: Literal["smoke", "cpu", "full"] = "cpu"
    """How much is done."""
    data_dir: str | None = None
    """Folder with the datasets."""
    work: Path = Path("runs/tables")
    """Folder of what is made."""
    name: str | None = None
    """Name of the result files; tables_<table>_<scale> unless given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedAccuracies(Asked):
    """What a table of accuracies is asked for. All of it is shown, as far as it is known."""

    only: tuple[str, ...] = ()
    """Rows to work on, such as 'dm*'; may be given again."""
    column: tuple[str, ...] = ()
    """Columns, such as '*IPC 10'; may be given again."""


@click.group()
def main() -> None:
    """The tables of the DataDAM paper, measured here. A killed command goes on."""


def _add(table: str) -> None:
    """The command of a table."""

    def command(asked: Any, workers: Workers, minutes: float | None) -> None:
        chosen = {}
        if isinstance(asked, AskedAccuracies):
            chosen = {"rows": asked.only, "columns": asked.column}
        with locked(asked.work), stoppable(minutes) as time_is_up:
            try:
                with closing(TableWork(asked.work, asked.data_dir, workers)) as opened:
                    name = asked.name or run.title(table, asked.scale)
                    run.TABLES[table](asked.scale, opened, name, **chosen)
            except (Interrupted, KeyboardInterrupt) as stopped:
                click.echo(str(stopped) or "stopped; the same command goes on", err=True)
                if not time_is_up():
                    sys.exit(130)

    asked = AskedAccuracies if table in accuracy.TABLES else Asked
    main.command(table, cls=StudyCommand, asked=asked, help=ABOUT[table])(command)


for _table in run.TABLES:
    _add(_table)

if __name__ == "__main__":
    guard.run(main)
