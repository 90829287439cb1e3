"""The campaign's jobs of the tables: each a job, after everything else, for they take longest.

Their sets and scores are kept in `tables.run`, what other jobs found of the same sets included; the tables themselves go where
all results go.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.tables import accuracy
from benchmarks.tables.cells import Work
from benchmarks.tables.lines import SCALES
from benchmarks.tables.run import TABLES, title
from condense.files import read_json
from condense.study.interrupt import Interrupted

if TYPE_CHECKING:
    from benchmarks.campaign.workplace import Workplace


def plan(scale: str) -> Iterator[tuple[float, str, Callable[["Workplace", str], None]]]:
    """Order, name and work of each table's job, at a scale of the tables."""
    for table in TABLES:
        yield math.inf, f"table-{table}", partial(_fill, table=table, scale=scale)


def _fill(place: "Workplace", name: str, *, table: str, scale: str) -> None:
    """Work on a table until it is full."""
    record, work = place.record(name), Work(place.out / "tables.run", place.data_dir)
    try:
        if table in accuracy.TABLES:
            records = [read_json(path) for path in sorted(place.out.glob("*.json"))]
            sets = [one for one in records if one["finished"] and "line" in one]
            work.adopt(accuracy.TABLES[table](SCALES[scale]).entries, sets)
        with place.leg(record, "measure"):
            left = TABLES[table](scale, work, title(table, scale))
    except (Interrupted, KeyboardInterrupt):
        place.keep(record, "begun")
        raise
    place.keep(record | {"finished": not left}, f"{left} sets missing" if left else "full")
