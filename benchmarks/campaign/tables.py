"""The campaign's jobs of the tables: each a job, after everything else, for they take longest.

Their sets are kept in `tables.run`. Networks that other jobs trained on the same sets are not
trained again. The tables themselves go where all results go.
"""

import math
from functools import partial

from benchmarks.campaign.workplace import Planned, Workplace
from benchmarks.tables.run import TABLES, title


def plan(scale: str) -> Planned:
    """Order, name and work of each table's job, at a scale of the tables."""
    for table in TABLES:
        yield math.inf, f"table-{table}", partial(_fill, table=table, scale=scale)


def _fill(place: Workplace, name: str, *, table: str, scale: str) -> None:
    """Work on a table until it is full."""
    record = place.record(name)
    with place.tables(place.out / "tables.run") as work, place.leg(record, "measure"):
        left = TABLES[table](scale, work, title(table, scale))
    place.keep(record | {"finished": not left}, f"{left} sets missing" if left else "full")
