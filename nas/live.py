"""A search while it runs: for each proxy what is done, the best so far, the correlation so far and the time left.

A live table on a terminal, plain lines now and then elsewhere; on stderr, as `condense.progress`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condense.progress import progress
from nas import space
from nas.rank import agreement
from nas.ranking import Ranking

_EVERY = 2.0
"""Seconds between looks at the ranking."""
_RESAMPLES = 200  # enough for an interval to glance at


@contextmanager
def watched(
    title: str, total: int, done: int, look: Callable[[], Ranking], *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields the function to tell how many trainings are done; `look` gives the ranking as it stands."""
    if quiet:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _table(title, total, done, look) as told:
            yield told
    else:
        with progress(title, total, done) as tell:
            lines = _Now_and_then(look)
            yield lambda done: tell(done, lines.text(done == total))


class _Now_and_then:
    """What a ranking says in a line, looked at no more often than is worth it."""

    def __init__(self, look: Callable[[], Ranking]) -> None:
        self._look, self._at, self._text = look, -10.0, ""

    def text(self, last: bool) -> str:
        if last or time.monotonic() - self._at > 10:
            self._at = time.monotonic()
            ranking = self._look()
            best = " ".join(_best(ranking, ranking.by))
            self._text = "; ".join(part for part in (best and f"best {best}", _agreement(ranking, ranking.by)) if part)
        return self._text


@contextmanager
def _table(title: str, total: int, done: int, look: Callable[[], Ranking]) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    began, start, looked = time.monotonic(), done, -_EVERY

    def render(done: int) -> Table:
        ranking = look()
        left = (time.monotonic() - began) / max(1, done - start) * (total - done)
        table = Table(title=f"{title}: {done} of {total} trainings, {left:.0f} s left", title_justify="left")
        for header in ("proxy", "architectures", "trainings", "best so far", "score", "Spearman with the truth"):
            table.add_column(header)
        score = ranking.by.rpartition(" ")[2]
        for proxy, trainings in ranking.trainings.items():
            column = f"{proxy} {score}"
            column = column if column in ranking.columns else ranking.by
            best, value = _best(ranking, column) or ("", "")
            row = (proxy, str(len(ranking)), f"{trainings.sum():.0f}", best, value)
            table.add_row(*row, _agreement(ranking, column).removeprefix("Spearman ") or "no reference yet")
        return table

    with Live(render(done), console=Console(stderr=True), auto_refresh=False) as live:

        def tell(done: int) -> None:
            nonlocal looked
            if done == total or time.monotonic() - looked >= _EVERY:
                looked = time.monotonic()
                live.update(render(done), refresh=True)

        yield tell


def _best(ranking: Ranking, column: str) -> tuple[str, str] | tuple[()]:
    """The best-ranked architecture by a column, its index first, and its score; nothing before the first."""
    if not len(ranking):
        return ()
    scores = [(value, -at) for at, value in enumerate(ranking.columns[column].tolist()) if value == value]
    if not scores:
        return ()
    value, at = max(scores)
    best = space(ranking.space).architecture(ranking.indices[-at])
    return f"{best.index} {best.name}", f"({column} {value:.4g})"


def _agreement(ranking: Ranking, column: str) -> str:
    if ranking.truth is None or len(ranking) < 4:
        return ""
    found = agreement(ranking.columns[column], ranking.truth, resamples=_RESAMPLES)["spearman"]
    return f"Spearman {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
