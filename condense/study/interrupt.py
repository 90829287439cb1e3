"""Ways to stop long work without losing any: Ctrl-C, a time limit."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from condense.errors import UserError


class Interrupted(Exception):
    """The run was asked to stop; its state is saved. The text says how to go on."""


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C (or a scheduler's SIGTERM) only raises a flag: the step under way is finished and saved.

    A second one stops at once.
    """
    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread: its owner handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seconds_of(text: str) -> float:
    """`90s`, `9m`, `2h` or `1h30m` in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise UserError(f"--budget {text}: give hours, minutes or seconds, such as 2h, 9m or 90s")
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


@contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """When the time is up, what is inside gets a Ctrl-C; a scheduler's SIGTERM is one too."""
    handlers = {
        signal.SIGALRM: lambda *_: signal.raise_signal(signal.SIGINT),
        signal.SIGTERM: signal.default_int_handler,
        signal.SIGINT: signal.default_int_handler,  # a shell's background job starts with it ignored
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))  # 0 would be never
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
