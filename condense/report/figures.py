"""Figures as PNG files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.errors import one_line
from condense.training.score import Measured
from condense.writing import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image


def bars(path: str | Path, scores: Mapping[str, Measured], title: str = "") -> Path:
    """Write a PNG of horizontal bars, one per accuracy, with 95 % intervals; returns the file.

    >>> from condense.training.score import Score
    >>> bars("bars.png", {"random": Score((0.3, 0.4)), "dm": Score((0.5, 0.6))}).name
    'bars.png'
    """
    figure, axes = panel(6.4, 0.9 + 0.42 * len(scores), grid="x")
    means = [100 * score.mean for score in scores.values()]
    ends = [score.interval or (score.mean, score.mean) for score in scores.values()]
    arms = [
        [
            100 * abs(pair[end] - score.mean)
            for pair, score in zip(ends, scores.values(), strict=True)
        ]
        for end in (0, 1)
    ]
    axes.barh(
        range(len(scores)),
        means,
        xerr=arms,
        height=0.62,
        color="#5b7fb8",
        ecolor="#333333",
        capsize=3,
    )
    axes.set_yticks(range(len(scores)), list(map(literal, scores)))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title=literal(title))
    axes.set_axisbelow(True)
    return save_figure(figure, Path(path))


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, grid: str = "both", **shared: Any
) -> "tuple[Figure, np.ndarray]":
    """An empty figure of `width` x `height` inches, and its axes [rows, columns].

    `grid` is the direction of the grid lines: `both`, `x`, `y` or ``. What is `shared` is passed on
    to `Figure.subplots`.

    >>> figure, axes = panels(6, 4, columns=2, sharey=True)
    >>> axes.shape
    (1, 2)
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        if grid:
            one.grid(axis=grid, alpha=0.3)
    return figure, axes


def panel(width: float, height: float, grid: str = "both") -> "tuple[Figure, Axes]":
    """The same with a single panel: the figure and its axes.

    >>> figure, axes = panel(6, 4)
    >>> figure.axes == [axes]
    True
    """
    figure, axes = panels(width, height, grid=grid)
    return figure, axes.item()


def literal(text: str) -> str:
    """Text for a figure that may hold any name: matplotlib reads what is between `$` as a formula.

    >>> literal("$100")
    '\\\\$100'
    """
    return drawable(text).replace("$", r"\$")


def drawable(text: str, most: int = 120) -> str:
    """Text that can be drawn on one line: at most `most` characters, without those no font has.

    >>> drawable("one\\ntwo \\x1b[31m"), len(drawable("a long name", 7))
    ('one two \\\\x1b[31m', 7)
    """
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def png_bytes(image: "Image.Image") -> bytes:
    """A Pillow image as the content of a PNG file.

    >>> from PIL import Image
    >>> png_bytes(Image.new("L", (8, 8)))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a matplotlib figure as a PNG; returns the file.

    >>> from matplotlib.figure import Figure
    >>> save_figure(Figure(figsize=(1, 1)), Path("figure.png")).name
    'figure.png'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path
