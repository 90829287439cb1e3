"""Tables of text: as Markdown, as aligned columns, and for a terminal that is drawn again."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Rows = Iterable[Sequence[Any]]
"""Rows of cells; what is no text is shown as `str` shows it."""


def markdown(headers: Sequence[Any], rows: Rows) -> list[str]:
    """The lines of a Markdown table.

    >>> for line in markdown(["method", "accuracy, %"], [["dm", 48.9], ["kip", ""]]):
    ...     print(line)
    | method | accuracy, % |
    |---|---|
    | dm | 48.9 |
    | kip | |
    """
    return [markdown_row(headers), "|---" * len(headers) + "|", *map(markdown_row, rows)]


def markdown_row(cells: Sequence[Any]) -> str:
    """One line of a Markdown table.

    >>> markdown_row(["dm", 0, ""])
    '| dm | 0 | |'
    """
    return "|" + "|".join(f" {cell} " if str(cell) else " " for cell in cells) + "|"


def percent(values: Iterable[float], digits: int = 2, between: str = " to ") -> str:
    """Values in percent, such as the two ends of an interval.

    >>> percent((0.419, 0.468), digits=1)
    '41.9 to 46.8'
    >>> percent([0.5], digits=0)
    '50'
    """
    return between.join(f"{100 * value:.{digits}f}" for value in values)


def columns(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in aligned columns, two spaces between them.

    >>> columns(["method", "rank"], [["dm", "1"], ["datadam", "2"]])
    ['method   rank', 'dm       1', 'datadam  2']
    """
    lines = [headers, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def terminal(
    title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False
) -> "Table":
    """The table for a terminal; with `numbers`, all columns but the first are aligned to the right.

    >>> terminal("accuracy", ["method", "%"], [["dm", "48.9"]]).row_count
    1
    """
    from rich.table import Table
    from rich.text import Text

    # A bare string would be read as rich's markup, and names may hold brackets.
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for place, header in enumerate(headers):
        table.add_column(Text(header), justify="right" if numbers and place else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
