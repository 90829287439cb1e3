"""Run a command in a forked process, with something done to it first, and say how it ended."""

import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import scenarios

LIMIT = 300.0
"""Seconds after which a command is killed, and counts as hanging, on however busy a machine."""
MOST_WORK = 20.0
"""The seconds of a processor that no small command may need."""
HUNG = 1000
"""The exit code of a command that was killed for hanging."""
MOST_MEMORY = 2 * 2**30
"""The bytes that no small command may need."""


@dataclass(frozen=True)
class Attempt:
    """How a command ended."""

    code: int
    """Its exit code; the negative number of a signal that killed it; `HUNG`."""
    printed: str
    seconds: float
    work: float
    """The seconds for which it had a processor."""
    memory: int
    """The most bytes of memory that it used."""


def start(
    arguments: list[str],
    prepare: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
) -> Callable[[], Attempt]:
    """Begin a command in a forked process; returns the function that waits for its end.

    `prepare` is called in the process before the command. With `kill_after`, SIGKILL is sent to it
    after this many seconds.
    """
    reader, writer = os.pipe()
    began, child = time.monotonic(), os.fork()
    if not child:
        _run(arguments, prepare, writer)
    os.close(writer)

    def ended() -> Attempt:
        hung = threading.Event()

        def stop() -> None:
            if kill_after is None:
                hung.set()
            os.kill(child, signal.SIGKILL)

        timer = threading.Timer(LIMIT if kill_after is None else kill_after, stop)
        timer.start()
        with os.fdopen(reader, "rb") as pipe:
            printed = pipe.read().decode(errors="replace")
        status, used = os.wait4(child, 0)[1:]
        timer.cancel()
        code = HUNG if hung.is_set() else os.waitstatus_to_exitcode(status)
        work = used.ru_utime + used.ru_stime
        return Attempt(code, printed, time.monotonic() - began, work, used.ru_maxrss * 1024)

    return ended


def _run(arguments: list[str], prepare: Callable[[], None], writer: int) -> None:
    """Become the command: its output goes to `writer`, and the process ends with its exit code."""
    code, end = 99, os._exit
    try:
        for stream in (1, 2):
            os.dup2(writer, stream)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
        sys.argv = ["condensekit", *arguments]
        prepare()
        end = os._exit  # what was prepared may watch it
        scenarios.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        end(code)


def to_the_end(arguments: list[str]) -> Attempt:
    """Run a command, then what its error says to go on with, as a user would."""
    for _ in range(3):
        attempt = start(arguments)()
        advice = re.search(r"go on with `condensekit ([^`]*)`", attempt.printed)
        if attempt.code != 2 or not advice:
            break
        arguments = shlex.split(advice[1])
    return attempt


def in_order(attempt: Attempt, codes: set[int]) -> str:
    """What is wrong with the end of a command; empty if it ended with one of `codes`, tracelessly.

    An error is one line. Other lines are those of progress and of results.
    """
    code, printed = attempt.code, attempt.printed
    if "Traceback" in printed or code not in codes:
        return f"exit code {code}: {printed[-1500:]}"
    if attempt.memory > MOST_MEMORY or attempt.work > MOST_WORK:
        return f"{attempt.memory} bytes of memory, {attempt.work:.1f} s of a processor"
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    return f"{len(errors)} errors: {printed[-1500:]}" if len(errors) != (code == 2) else ""
