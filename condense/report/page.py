"""Reports as HTML: one file that holds its styles, scripts and pictures, and loads nothing.

A report is looked at in a browser, printed, and read aloud; it follows the light or dark theme of
the reader. Its charts are drawn by Vega-Lite, which is embedded once, and only where there are any.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.errors import UserError
from condense.reading import open_file
from condense.report.blocks import Block, Report
from condense.writing import write_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_MARK, _HEAD = b'<meta name="generator" content="condensekit">', 200
"""What marks a file as one of our reports, and the number of bytes in which it stands."""
_LIBRARIES = ("vega", "vega-lite", "vega-embed")


def write(path: Path, report: Report) -> Path:
    """Write a report as one HTML file; returns the file.

    >>> from condense.report.blocks import Section, Text
    >>> page = write(Path("report.html"), Report("Digits", (Section("Result", Text("50 %")),)))
    >>> "<h1>Digits</h1>" in page.read_text()
    True
    """
    write_text(path, render([report], report.title))
    return path


def check_page(path: Path) -> None:
    """Raise a `UserError` if a file is at `path` that is no report, and so is not replaced.

    >>> check_page(Path("no-such-file.html"))
    >>> check_page(Path(__file__))
    Traceback (most recent call last):
    condense.errors.UserError: ...page.py is no report of ours, and is not replaced: ...
    """
    if path.is_file():
        with open_file(path) as file:
            if _MARK not in file.read(_HEAD):
                raise UserError(
                    f"{path} is no report of ours, and is not replaced: choose another --out"
                )


def render(reports: Sequence[Report], title: str, overview: Sequence[Any] = ()) -> str:
    """The HTML of a report, or of several side by side below the sections of an `overview`.

    >>> "<h2>Two</h2>" in render([Report("One", ()), Report("Two", ())], "Both")
    True
    """
    blocks = [
        block
        for section in (*overview, *(one for report in reports for one in report.sections))
        for block in section.blocks
    ]
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            reports=reports,
            overview=overview,
            style=_static("report.css"),
            script=_static("report.js"),
            libraries=[_static(f"vega/{name}.min.js") for name in _LIBRARIES if _draws(blocks)],
        )
    )


def _draws(blocks: Sequence[Block]) -> bool:
    return any(block.kind in ("chart", "explorer") for block in blocks)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("condense.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"cell": _cell, "inline": _inline}
    made.tests |= {"numeric": _numeric}
    return made


@cache
def _static(name: str) -> str:
    return (files("condense.report") / "static" / name).read_text(encoding="utf-8")


def _inline(text: str) -> "Markup":
    """A paragraph as HTML: what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _cell(value: Any) -> str:
    """A value as a reader sees it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numeric(value: Any) -> bool:
    """Whether a cell holds a number, so that it is aligned to the right."""
    text = _cell(value).lstrip("+-\u2212")
    return text[:1].isdigit()
