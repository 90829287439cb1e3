"""Each table from start to end: measure what is missing, write numbers, text, page, pictures."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from typing import Any

import click

from benchmarks import results
from benchmarks.tables import accuracy, cost, embedding, render
from benchmarks.tables.bench import TableWork
from benchmarks.tables.entries import Entry, lacking, results_of, work_through
from benchmarks.tables.lines import SCALES
from condense import UserError
from condense.report.blocks import Section


def fill(
    table_name: str,
    scale: str,
    work: TableWork,
    name: str,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> int:
    """Measure a table of accuracies and write it, also when stopped on the way.

    `rows` and `columns` are patterns of what to work on, none for all; the whole table is shown, as
    far as it is known. Returns how many sets are still missing.
    """
    table = accuracy.TABLES[table_name](SCALES[scale])
    chosen = [one for one in table.entries if _matches(one.row, rows)]
    entries = [one for one in chosen if _matches(one.column, columns)]
    if not entries:
        raise UserError("--only and --column: no entry of the table has such a row and column")
    failed = lacking(table.entries, work)
    if all(entry in failed for entry in entries):
        raise UserError(failed[entries[0]])
    try:
        work_through(entries, work, failed)
    finally:
        known = results_of(table.entries, work, failed)
        records = [
            {"row": entry.row, "column": entry.column, **result.to_json()}
            for entry, result in known.items()
        ]
        document = {"seconds": _seconds(table, work, failed), "entries": records}
        lines = render.markdown(table, known)
        _write(name, scale, document, lines, render.sections(table, known))
        render.draw(results.FOLDER / f"{name}.png", table, known)
    return sum(result.missing for result in known.values() if not result.failed)


def _seconds(table: accuracy.Table, work: TableWork, failed: dict[Entry, str]) -> float:
    """How long the networks took that are trained so far, one after the other."""
    entries = [entry for entry in table.entries if entry not in failed]
    seeds = {entry: range(len(entry.sets)) for entry in entries}
    tasks = [task for entry in entries for seed in seeds[entry] for task in entry.networks(seed)]
    return work.study(tasks).seconds


def fill_with(kind: Any, scale: str, work: TableWork, name: str) -> int:
    """Measure what the module `kind` measures, and write its table and its pictures."""
    document = kind.measure(SCALES[scale], work)
    _write(name, scale, document, kind.markdown(document), kind.sections(document))
    kind.draw(results.FOLDER, name, document)
    return 0


TABLES: dict[str, Callable[..., int]] = {
    **{name: partial(fill, name) for name in accuracy.TABLES},
    "cost": partial(fill_with, cost),
    "embedding": partial(fill_with, embedding),
}
"""Name -> `(scale, work, name of the result files) -> sets still missing`."""


def title(table: str, scale: str) -> str:
    """The usual name of a table's result files."""
    return f"tables_{table}_{scale}"


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(text, pattern) for pattern in patterns)


def _write(
    name: str,
    scale: str,
    document: dict[str, Any],
    lines: list[str],
    sections: Sequence[Section],
) -> None:
    written = results.write(name, {"scale": scale, **document}, lines)
    title = lines[0].removeprefix("# ")
    results.write_page(results.FOLDER / f"{name}.html", title, sections, written)
    click.echo("\n".join(lines))
