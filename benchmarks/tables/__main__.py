"""The command: `python -m benchmarks.tables TABLE --scale SCALE --data-dir DIR`."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.campaign import ending_after, seconds_of
from benchmarks.tables import accuracy, render
from benchmarks.tables.cells import Work, work_through
from benchmarks.tables.lines import SCALES
from condense import UserError
from condense.folder import locked
from condense.run import Interrupted


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What every table takes."""
    for option in reversed(
        [
            click.option("--scale", default="cpu", show_default=True, type=click.Choice(list(SCALES))),
            click.option("--data-dir", type=click.Path(), help="Folder with the datasets."),
            click.option("--work", default="runs/tables", show_default=True, type=click.Path(path_type=Path)),
            click.option("--budget", help="Time to work, such as 90s, 9m or 2h; started again it goes on.  [default: no end]"),
            click.option("--device", default="auto", show_default=True),
            click.option("--name", help="Name of the result files.  [default: tables_TABLE_SCALE]"),
        ]
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """The tables of the DataDAM paper, measured here. What was made is kept, so a killed command goes on."""


def _add(name: str) -> None:
    @main.command(name, help=accuracy.TABLES[name].__doc__)
    @options
    @click.option("--only", "patterns", multiple=True, help="Rows to work on, such as 'dm*'; all are shown.")
    @click.option("--column", "columns", multiple=True, help="Columns to work on, such as '*IPC 10'.")
    def command(scale: str, patterns: tuple[str, ...], columns: tuple[str, ...], **common: Any) -> None:
        table = accuracy.TABLES[name](SCALES[scale])
        entries = [entry for entry in table.entries if _any(entry.row, patterns) and _any(entry.column, columns)]
        if not entries:
            raise click.UsageError("no entry of the table has such a row and column")
        try:
            _measure(name, scale, table, entries, common)
        except UserError as error:
            raise click.UsageError(str(error)) from None


def _any(text: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch(text, pattern) for pattern in patterns)


def _measure(name: str, scale: str, table: accuracy.Table, entries: list[Any], common: dict[str, Any]) -> None:
    work, title = Work(common["work"], common["data_dir"], common["device"]), common["name"] or f"tables_{name}_{scale}"
    conditions, stopped, failed = results.conditions(), False, dict[Any, str]()
    with locked(common["work"]):
        try:
            with ending_after(seconds_of(common["budget"] or "10000h")):
                failed = work_through(entries, work)
        except (Interrupted, KeyboardInterrupt):
            stopped = True
        found = {entry: work.found(entry, failed.get(entry, "")) for entry in table.entries}
    told = [{"row": entry.row, "column": entry.column, **one.to_json()} for entry, one in found.items()]
    lines = render.markdown(table, found)
    results.write(title, {"conditions": conditions, "scale": scale, "entries": told}, lines)
    render.draw(results.FOLDER / f"{title}.png", table, found)
    click.echo("\n".join(lines))
    if stopped:
        click.echo("stopped: the same command goes on")


for _name in accuracy.TABLES:
    _add(_name)

if __name__ == "__main__":
    main()
