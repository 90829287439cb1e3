"""Ways to stop long work without losing any: Ctrl-C, a scheduler's SIGTERM, a time limit.

Two kinds of work are stopped in two ways. A condensation finishes the step it is at and saves its state: `stop_signal`.
A study of many tasks drops the task it is at, since everything finished is stored already: `stoppable`.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from condense.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The work was asked to stop, and what it has done is saved. The text says how to go on.

    >>> raise Interrupted("stopped after step 3 of 10; go on with `condense --resume runs/a`")
    Traceback (most recent call last):
    condense.study.interrupt.Interrupted: stopped after step 3 of 10; go on with `condense --resume runs/a`
    """


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM only raise a flag; yields the function that reads it.

    A second signal stops at once, by `KeyboardInterrupt`. Outside the main thread signals stay as they are.

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


@contextmanager
def stoppable(minutes: float | None = None) -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and the end of `minutes` are each a Ctrl-C; yields whether the time is up.

    Raises `UserError` for a time that is not above 0. Outside the main thread nothing is interrupted, and the
    function that is yielded has to be asked.

    >>> with stoppable(minutes=10) as time_is_up:
    ...     time_is_up()
    False
    """
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes {minutes:g}: it must be above 0")
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    # A shell starts background jobs with SIGINT ignored: theirs is restored as well.
    handlers: dict[int, Any] = dict.fromkeys(_SIGNALS, signal.default_int_handler)
    if minutes is not None:
        handlers[signal.SIGALRM] = lambda *_: signal.raise_signal(signal.SIGINT)
    with _handlers(handlers) as in_main_thread, _alarm(60 * (minutes or 0) * in_main_thread):
        yield lambda: time.monotonic() >= end


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """SIGALRM after so many seconds, or when that of an outer time limit is due; for 0 seconds, none of its own."""
    if not seconds:
        yield
        return
    began, outer = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
    signal.setitimer(signal.ITIMER_REAL, min(seconds, outer or seconds))
    try:
        yield
    finally:
        left = max(outer - (time.monotonic() - began), 0.001) if outer else 0
        signal.setitimer(signal.ITIMER_REAL, left)


@contextmanager
def _handlers(wanted: dict[int, Any]) -> Iterator[bool]:
    """These signal handlers while inside, and the ones before them afterwards; yields whether they could be set."""
    try:
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    except ValueError:  # not the main thread: its owner handles signals
        yield False
        return
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
