"""What a report is made of: sections of blocks, as plain data that `page` renders.

    accuracy = Section("Accuracy", scores({"condensed": score}), Text("Intervals are ..."))
    write(Path("report.html"), Report("Digits", (accuracy,)))

Each kind of block has a macro of its own name in `templates/blocks.html`, which escapes all text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from condense.report import charts
from condense.report.tables import percent
from condense.training.score import Measured

ACCURACY = "accuracy, %"


@dataclass(frozen=True)
class Block:
    """A part of a section.

    >>> Text("3 < 4").kind
    'text'
    """

    kind: ClassVar[str]
    """The macro that renders it."""


@dataclass(frozen=True)
class Text(Block):
    """A paragraph.

    >>> Text("Intervals are 95 %.").text
    'Intervals are 95 %.'
    """

    kind = "text"
    text: str


@dataclass(frozen=True)
class Command(Block):
    """A command line, as it is typed.

    >>> Command("condensekit data --list").text
    'condensekit data --list'
    """

    kind = "command"
    text: str


@dataclass(frozen=True)
class Table(Block):
    """A table of text and numbers, which readers can sort. None is an empty cell.

    >>> Table(("method", "accuracy"), (("dm", 0.5),)).rows
    (('dm', 0.5),)
    """

    kind = "table"
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Facts(Block):
    """Names and values, such as a provenance.

    >>> Facts({"dataset": {"name": "digits"}}).rows
    [('dataset.name', 'digits')]
    """

    kind = "facts"
    values: Mapping[str, Any]

    @property
    def rows(self) -> list[tuple[str, Any]]:
        """The values by name; those of nested names have names such as `outer.inner`."""
        return list(_flat(self.values))


@dataclass(frozen=True)
class Chart(Block):
    """A Vega-Lite chart, and its data as a table for those who do not see it.

    >>> Chart("Loss", charts.line([{"step": 1, "loss": 0.5}], "step", "loss")).title
    'Loss'
    """

    kind = "chart"
    title: str
    spec: Mapping[str, Any]
    """A Vega-Lite specification; width, colours and fonts are the page's."""
    table: Table | None = None


@dataclass(frozen=True)
class Heat(Block):
    """Percentages by row and column, in colours: a table whose cells are shaded.

    >>> Heat("Accuracy", ("dm",), ("mlp", "convnet"), ((40.0, 60.0),)).shade(60.0)
    100
    """

    kind = "heat"
    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    """By row and column; None where nothing is measured."""

    def shade(self, value: float) -> int:
        """How dark a value is shown, from 0 (the least) to 100."""
        known = [one for row in self.values for one in row if one is not None]
        least, most = min(known), max(known)
        return round(100 * (value - least) / (most - least)) if most > least else 50


@dataclass(frozen=True)
class Explorer(Block):
    """Rows to explore: a chart of two columns that readers choose, and a table of what it marks.

    Cells of NAS-Bench-201 are drawn where a column is called `arch`.

    >>> Explorer(("rank", "score", "truth"), ((1, 0.5, 0.9),), "score", "truth").numbers
    ['rank', 'score', 'truth']
    """

    kind = "explorer"
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    """By rank. None is a missing number."""
    x: str
    """The column that is across at first."""
    y: str
    """The column that is upward at first; its best 20 % can be marked."""

    @property
    def numbers(self) -> list[str]:
        """The columns that can be axes."""
        return [
            name
            for column, name in enumerate(self.headers)
            if not any(isinstance(row[column], str) for row in self.rows)
        ]


@dataclass(frozen=True)
class Details(Block):
    """Blocks that are folded away until a reader asks for them.

    >>> Details("All settings", (Facts({"seed": 0}),)).title
    'All settings'
    """

    kind = "details"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The tiles of a set after some step, as one picture.

    >>> Frame(label="start", source="data:image/png;base64,...").label
    'start'
    """

    label: str
    source: str
    """A data URI; the tiles lie in rows, in the order of the classes."""


@dataclass(frozen=True, kw_only=True)
class Pictures(Block):
    """The images of a set by class, as they were at the start, at some steps and at the end.

    >>> classes = (("cat", 1), ("dog", 1))
    >>> Pictures(classes=classes, frames=(), across=2, height=8, width=8).tiles[1]
    ('dog', [1])
    """

    kind = "pictures"
    classes: Sequence[tuple[str, int]]
    """The name of each class, and how many tiles it has."""
    frames: Sequence[Frame]
    """In order. If there are several, the first is shown beside the one that a slider chooses."""
    across: int
    """Tiles in a row of a frame."""
    height: int
    """Of a tile, in pixels."""
    width: int
    note: str = ""
    """What is not shown."""

    @property
    def tiles(self) -> list[tuple[str, list[int]]]:
        """For each class, the positions of its tiles in a frame."""
        rows, begin = [], 0
        for name, count in self.classes:
            rows.append((name, list(range(begin, begin + count))))
            begin += count
        return rows

    @property
    def down(self) -> int:
        """Rows of tiles in a frame."""
        return -(-sum(count for _, count in self.classes) // self.across)


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it.

    >>> len(Section("Accuracy", Text("..."), Text("...")).blocks)
    2
    """

    title: str
    blocks: tuple[Block, ...]

    def __init__(self, title: str, *blocks: Block) -> None:
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "blocks", blocks)


@dataclass(frozen=True)
class Report:
    """What is told of one run, and what it is compared by with others.

    >>> Report("Digits", (Section("How", Facts({"seed": 0})),)).summary
    {}
    """

    title: str
    sections: Sequence[Section]
    summary: Mapping[str, Any] = field(default_factory=dict)
    """The row of the run in a table of many."""
    scores: Mapping[str, Measured] = field(default_factory=dict)
    """The accuracies of the run, by what was trained."""


def scores(
    results: Mapping[str, Measured],
    published: Mapping[str, tuple[float, float]] | None = None,
    title: str = "Test accuracy",
) -> Chart:
    """Accuracies by name, each with its 95 % interval, and what is `published` below them.

    A published figure is a mean in percent with a standard deviation.

    >>> from condense.training.score import Score
    >>> scores({"dm": Score((0.4, 0.6))}, {"DataDAM": (54.2, 0.8)}).table.rows
    [['dm', '50.0', '0.0 to 100.0', 2, 'here'], ['DataDAM', '54.2', '± 0.8', None, 'published']]
    """
    rows: list[list[Any]] = []
    for name, score in results.items():
        among = percent(score.interval, 1) if score.interval else None
        rows.append([name, percent([score.mean], 1), among, len(score.accuracies), "here"])
    for name, (mean, deviation) in (published or {}).items():
        spread = f"\u00b1 {deviation:.1f}" if deviation else None  # some publish the mean alone
        rows.append([name, f"{mean:.1f}", spread, None, "published"])
    points = [measured_point(name, score) for name, score in results.items()]
    points += [published_point(name, *figure) for name, figure in (published or {}).items()]
    headers = ["", "accuracy, %", "95 % interval", "networks", "measured"]
    return Chart(title, charts.intervals(points, ACCURACY, ends=(0, 100)), Table(headers, rows))


def measured_point(name: str, score: Measured) -> dict[str, Any]:
    """A point of a chart of intervals: an accuracy in percent, with its 95 % interval.

    >>> from condense.training.score import Score
    >>> measured_point("dm", Score((0.5,)))["high"]
    50.0
    """
    low, high = (100 * end for end in score.interval or (score.mean, score.mean))
    source = "here, 95 % interval"
    return {"name": name, "source": source, ACCURACY: 100 * score.mean, "low": low, "high": high}


def published_point(name: str, mean: float, deviation: float) -> dict[str, Any]:
    """A point of a chart of intervals: a published mean and its standard deviation, in percent.

    >>> published_point("DataDAM", 54.0, 0.5)["high"]
    54.5
    """
    low, high = mean - deviation, mean + deviation
    source = "published, std. dev."
    return {"name": name, "source": source, ACCURACY: mean, "low": low, "high": high}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
