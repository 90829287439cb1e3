"""Figures as PNG files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from condense.files import write_bytes
from condense.training.score import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def bars(path: str | Path, scores: Mapping[str, Measured], title: str = "") -> Path:
    """Write a PNG of horizontal bars, one per accuracy, with 95 % intervals; returns the file.

    >>> from condense.training.score import Score
    >>> bars("bars.png", {"random": Score((0.3, 0.4)), "dm": Score((0.5, 0.6))}).name
    'bars.png'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(scores)), layout="constrained", dpi=150)
    axes = figure.subplots()
    means = [100 * score.mean for score in scores.values()]
    arms = [
        [100 * abs(score.ci95[end] - score.mean) for score in scores.values()] for end in (0, 1)
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
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)


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
