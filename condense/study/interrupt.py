"""Ways to stop long work without losing results: Ctrl-C, a scheduler's SIGTERM, a time limit.

There are two kinds of work, and they stop in different ways. A condensation finishes its current
step and saves its state: `stop_signal`. A study of many tasks drops its current task, because all
finished tasks are already stored: `stoppable`.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from condense.errors import UserError
from condense.settings import read_value

_A_YEAR = 366 * 24 * 60
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01
"""Seconds after which an interrupt comes again that Python has dropped."""


class Interrupted(Exception):
    """Someone stopped the work, and what it has done is saved. The text says how to continue it.

    >>> raise Interrupted("stopped after step 3 of 10; go on with the same command")
    Traceback (most recent call last):
    condense.study.interrupt.Interrupted: stopped after step 3 of 10; go on with the same command
    """


@contextmanager
def telling(how_to_go_on: str) -> Iterator[None]:
    """Inside this context, whoever interrupts the work is told how to go on.

    >>> with telling("go on with the same command"):
    ...     raise KeyboardInterrupt
    Traceback (most recent call last):
    condense.study.interrupt.Interrupted: stopped while it prepared; go on with the same command
    """
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}; {how_to_go_on}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while it prepared; {how_to_go_on}") from None


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Inside this context, Ctrl-C and SIGTERM only set a flag; yields the function that reads it.

    A second signal stops the work at once, with `KeyboardInterrupt`. Outside of the main thread,
    signals keep their usual effect.

    >>> with stop_signal() as stopping:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stopping()
    True
    """
    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    with _handlers(dict.fromkeys(_SIGNALS, on_signal)):
        yield lambda: asked


def seconds_of(minutes: float | None) -> float | None:
    """A time limit in seconds. Raises `UserError` for one that is not above 0, or no number.

    >>> seconds_of(1.5), seconds_of(None)
    (90.0, None)
    >>> seconds_of(0)
    Traceback (most recent call last):
    condense.errors.UserError: --minutes 0: it must be above 0, and at most ...
    """
    if minutes is None:
        return None
    number = read_value(float, minutes, "--minutes")
    if not 0 < number <= _A_YEAR:
        raise UserError(f"--minutes {number:g}: it must be above 0, and at most {_A_YEAR:,}")
    return 60 * number


@contextmanager
def stoppable(minutes: float | None = None) -> Iterator[Callable[[], bool]]:
    """Inside this context, SIGTERM and the end of the time limit act like Ctrl-C.

    `minutes` is the time limit; None means no limit. Yields a function that says whether the time
    is up. Raises `UserError` for a limit that is not above 0. Outside of the main thread nothing is
    interrupted, and the caller has to ask that function from time to time.

    >>> with stoppable(minutes=10) as time_is_up:
    ...     time_is_up()
    False
    """
    limit = seconds_of(minutes)
    end = float("inf") if limit is None else time.monotonic() + limit
    # A shell starts background jobs with SIGINT ignored. Here it gets its usual effect back.
    handlers: dict[int, Any] = dict.fromkeys(_SIGNALS, signal.default_int_handler)
    handlers[signal.SIGALRM] = lambda number, frame: signal.raise_signal(signal.SIGINT)
    with _handlers(handlers) as in_main_thread:
        if in_main_thread:
            with _alarm(limit), _dropped_come_again():
                yield lambda: time.monotonic() >= end
        else:
            yield lambda: time.monotonic() >= end


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Send SIGALRM after this many seconds, or earlier if an outer time limit ends earlier.

    The alarm of the outer limit is set again at the end.
    """
    began, outer = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, min(seconds, outer or seconds))
    try:
        yield
    finally:
        left = max(outer - (time.monotonic() - began), 0.001) if outer else 0
        signal.setitimer(signal.ITIMER_REAL, left)


@contextmanager
def _dropped_come_again() -> Iterator[None]:
    """Inside this context, an interrupt that Python drops comes again a moment later.

    Python drops, and only prints, what is raised in a finalizer, while a weak reference is cleared,
    and in a callback of the garbage collector.
    """
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _handlers(wanted: dict[int, Any]) -> Iterator[bool]:
    """Install these signal handlers inside this context, and restore the previous ones at its end.

    Yields whether they could be installed.
    """
    try:
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    except ValueError:  # not the main thread, which alone may handle signals
        yield False
        return
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
