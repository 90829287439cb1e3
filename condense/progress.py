"""Progress of a long task, shown on stderr: a live bar on a terminal, else a line now and then.

Functions that are told to be `quiet` or not show a `progress`. What lies deeper, such as whitening,
is heard only inside `aloud`, which the command line is.
"""

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Protocol

_PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""
_PATIENCE = 2.0
"""Seconds of silence before a `notice`."""
_ALOUD = ContextVar("_ALOUD", default=False)


class Progress(Protocol):
    """The function that a long task calls to report how far it is.

    `done` is the number of finished units, `note` a short remark such as the current loss.

    >>> def work(report: Progress) -> None:
    ...     report(1, "loss 0.5")
    >>> work(lambda done, note="": print(done, note))
    1 loss 0.5
    """

    def __call__(self, done: int, note: str = "") -> None: ...


def duration(seconds: float) -> str:
    """A length of time as people tell it.

    >>> duration(7.2), duration(94), duration(7890), duration(200_000)
    ('7 s', '2 min', '2 h 12 min', '2 d 7 h')
    """
    minutes = round(seconds / 60)
    if seconds < 89.5:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2g} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def until(seconds: float, word: str = "") -> str:
    """A length of time from now, with a `word` after it, and when it ends by the clock.

    The weekday is told of what ends tomorrow, and the date of what ends later.

    >>> until(600)
    '10 min, done about ...'
    >>> until(600, "left")
    '10 min left, done about ...'
    >>> until(1e12, "left")
    '11574074 d 1 h left, after the year 9999'
    """
    now, length = datetime.now(), f"{duration(seconds)} {word}".strip()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:
        return f"{length}, after the year 9999"
    date = f"{end.day} {end:%B} " if end - now > timedelta(days=1) else ""
    day = "" if end.date() == now.date() else f"{end:%A} {date}"
    return f"{length}, done about {day}{end:%H:%M}"


@contextmanager
def aloud() -> Iterator[None]:
    """Inside, work that is not told whether to be quiet says on stderr what it does.

    >>> with aloud():
    ...     heard()
    True
    """
    token = _ALOUD.set(True)
    try:
        yield
    finally:
        _ALOUD.reset(token)


def heard() -> bool:
    """Whether this runs inside `aloud`.

    >>> heard()
    False
    """
    return _ALOUD.get()


@contextmanager
def notice(text: str, *, quiet: bool | None = None) -> Iterator[None]:
    """Say `text` on stderr if what is inside takes longer than two seconds.

    Without `quiet`, it is said where it is `heard`.

    >>> with notice("whitening 50,000 images"):
    ...     pass
    """
    ended = threading.Event()

    def wait() -> None:
        if not ended.wait(_PATIENCE):
            print(f"{text} ...", file=sys.stderr, flush=True)

    if not (not heard() if quiet is None else quiet):
        # Without memory, the `start` of a `Thread` or `Timer` may wait for ever for a thread that
        # has ended (python/cpython issue 140746). This does not wait.
        with suppress(RuntimeError):  # no thread can be started, so nothing is said
            _thread.start_new_thread(wait, ())
    try:
        yield
    finally:
        ended.set()


@contextmanager
def progress(title: str, total: int, start: int = 0, *, quiet: bool = False) -> Iterator[Progress]:
    """Show the progress of `total` units; yields the function to report with.

    `start` is the number of units that an earlier run has already done. With `quiet` nothing is
    shown.

    >>> with progress("condensing", total=2, quiet=True) as report:
    ...     for step in range(2):
    ...         report(step + 1, note="loss 0.5")
    """
    if quiet:
        yield lambda done, note="": None
    elif sys.stderr.isatty():
        with _bar(title, total, start) as report:
            yield report
    else:
        yield _lines(title, total, start)


@contextmanager
def _bar(title: str, total: int, start: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    note = TextColumn("{task.fields[note]}", markup=False)
    with Bar(*columns, note, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=start, note="", left="")
        left = _left(total, start)
        yield lambda done, note="": bar.update(task, completed=done, note=note, left=left(done))


def _left(total: int, start: int) -> Callable[[int], str]:
    """The function that says, from the units done, how long the rest takes and when it ends.

    It has to be called at each report. The first units say nothing: they begin with preparations.
    """
    first, began = start, 0.0

    def text(done: int) -> str:
        nonlocal first, began
        now = time.monotonic()
        if first == start:
            first, began = done, now
        if done <= first or done >= total:
            return ""
        return until((now - began) / (done - first) * (total - done), "left")

    return text


def _lines(title: str, total: int, start: int) -> Progress:
    began = printed = time.monotonic()
    left = _left(total, start)

    def report(done: int, note: str = "") -> None:
        nonlocal printed
        now, rest = time.monotonic(), left(done)
        if now - printed < _PLAIN_EVERY and done < total:
            return
        printed = now
        parts = (f"{title}: {done}/{total}", f"{duration(now - began)} so far", rest)
        print(f"{', '.join(filter(None, parts))}  {note}", file=sys.stderr, flush=True)

    return report
