"""`condensekit report`: what run folders hold, as a page to look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click

from condense.errors import UserError
from condense.options import PATH, Command, Heading, Part

if TYPE_CHECKING:
    from condense.report.blocks import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Where a report goes.

    >>> Page(out=Path("both.html")).out.name
    'both.html'
    """

    out: Path | None = None
    """HTML file to write.  [default: report.html in the run folder, or here for several]"""


def report_command(kinds: Mapping[str, str]) -> click.Command:
    """The command, for run folders of these kinds.

    `kinds` names, for each file that tells a kind of folder, the function that makes the report of
    such a folder, as `module:function`.

    >>> report_command({"run.json": "condense.runs.report:report_of"}).name
    'report'
    """

    @click.command(cls=Command, parts={"page": Part(kind=Page, heading=Heading.OUTPUT)})
    @click.argument("runs", nargs=-1, required=True, type=PATH)
    def report(runs: tuple[Path, ...], page: Page) -> None:
        """Write a page that shows a run, or several side by side.

        \b
        condensekit report runs/c10
        condensekit report runs/c10 runs/c10-random --out both.html

        RUNS are folders of `condense`, `select`, `import`, `continual` or `nas`. The page is one
        file that loads nothing, so it can be sent as it is.
        """
        from condense.report.compare import write_comparison
        from condense.report.page import check_page, write

        reports = [_report(folder, kinds) for folder in runs]
        alone = len(reports) == 1
        path = page.out or (runs[0] if alone else Path()) / "report.html"
        if page.out is not None or not alone:  # in its own folder a run's report is ours
            check_page(path)
        click.echo(write(path, reports[0]) if alone else write_comparison(path, reports))

    return report


def _report(folder: Path, kinds: Mapping[str, str]) -> "Report":
    """The report of a folder, by the file that tells its kind."""
    for file, made_by in kinds.items():
        if (folder / file).exists():
            return resolve_name(made_by)(folder)
    raise UserError(f"{folder} holds no run: it has none of {', '.join(kinds)}")
