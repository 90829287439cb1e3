"""How a command line ends: in order, or with one line that says what is wrong, and an exit code.

2 is bad input, 130 an interrupt (Ctrl-C or SIGTERM), 1 what nobody expected. The full trace of the
latter is written to a file, and the line says where.
"""

import errno
import os
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import click

from condense.errors import UserError, one_line
from condense.progress import aloud
from condense.study.interrupt import Interrupted, stoppable
from condense.study.record import folder_of
from condense.threads import wait_passively
from condense.writing import write_bytes

_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Unable to allocate",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment from shared object",
)
"""What torch, NumPy, oneDNN, Python and the loader of libraries say when there is no memory.

Not all are `MemoryError`s.
"""


def run(command: click.Command) -> None:
    """Run a command line; unless all is well, end this process with an exit code.

    Inside, SIGTERM acts like Ctrl-C, and all work tells what it does.

    >>> import sys
    >>> @click.command()
    ... def walk() -> None:
    ...     raise UserError("`steps` is -1: it must be 0 or more")
    >>> sys.argv = ["walk"]
    >>> run(walk)
    Traceback (most recent call last):
    SystemExit: 2
    """
    wait_passively()  # before a command imports torch
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files may not be UTF-8
    try:
        with aloud(), stoppable(), _quiet_threads():
            command.main(standalone_mode=False)
    except UserError as error:
        _end(f"error: {error}", 2)
    except click.ClickException as error:
        _end(f"error: {error.format_message()}", 2)
    except Interrupted as stopped:
        _end(str(stopped), 130)
    except (KeyboardInterrupt, click.Abort):
        _end("interrupted: start the same command again", 130)
    except Exception as error:
        _end(*_unforeseen(error))


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Inside, a thread that cannot use a file prints no trace: who waits for it raises it."""
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            before(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def _end(message: str, code: int) -> NoReturn:
    with suppress(OSError):  # nobody may be there to read it
        click.echo(one_line(message), err=True)
    sys.exit(code)


def _unforeseen(error: Exception) -> tuple[str, int]:
    """What to say about an error that no code of ours has named, and the exit code."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: cannot use {error.filename}: {error.strerror}", 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: cannot write: {error.strerror}; free some space", 2
    where = _written(error)
    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        return f"error: memory ran out: choose something smaller (full trace: {where})", 2
    what = f"{type(error).__name__}: {error}"
    return f"error: unexpected {what} (full trace: {where}; please report it)", 1


def _written(error: Exception) -> str:
    """The file that the full trace is written to: in the run folder, or the temporary folder."""
    text = f"{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    name = f"condensekit-error-{os.getpid()}.txt"
    for folder in (folder_of(error), Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            try:
                write_bytes(folder / name, text.encode(errors="backslashreplace"))
            except UserError:
                continue
            return str(folder / name)
    return "no folder to write it to"
