"""Stand between a command and the functions by which it writes, so that something happens there."""

import os
import random
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

WATCHED = ("fsync", "replace", "rename", "link", "mkdir", "rmdir", "unlink", "write")
"""Functions of `os` that write. A fault may come before and after each call."""
LOOKING = ("open", "stat", "lstat", "fstat", "scandir", "listdir")
"""Functions of `os` that look for files."""


class Shim:
    """Calls `act` at event number `at`, where an event is the moment before or after a write."""

    def __init__(self, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.count, self.at, self.act = 0, at, act

    def event(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.act()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.event()
            result = function(*arguments, **options)
            self.event()
            return result

        return watched

    def install(self) -> None:
        """Watch the functions that write files, and the database."""
        for name in WATCHED:
            setattr(os, name, self.around(getattr(os, name)))
        shim, fdopen, connect = self, os.fdopen, sqlite3.connect

        class Connection(sqlite3.Connection):
            execute = self.around(sqlite3.Connection.execute)  # type: ignore[assignment]

        def opened(handle: int, mode: str = "r", *more: Any, **options: Any) -> Any:
            file = fdopen(handle, mode, *more, **options)
            return Halves(file, shim) if "w" in mode and "b" in mode else file

        os.fdopen = opened
        sqlite3.connect = lambda *a, **o: connect(*a, **o, factory=Connection)


class Halves:
    """A file that is written in two halves, with an event between them."""

    def __init__(self, file: Any, shim: Shim) -> None:
        self.file, self.shim = file, shim

    def write(self, content: bytes) -> int:
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.shim.event()
        self.file.write(content[half:])
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Halves":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class Failing:
    """Makes call number `at` to a function of `os` fail, once, with an error of the system."""

    def __init__(self, at: int = 0, error: int = 0) -> None:
        self.count, self.at, self.error = 0, at, error

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                named = [one for one in arguments[:1] if not isinstance(one, int)]
                raise OSError(self.error, os.strerror(self.error), *named)
            return function(*arguments, **options)

        return watched

    def install(self) -> None:
        """Watch the functions that look for files and that write them."""
        for name in (*WATCHED, *LOOKING):
            setattr(os, name, self.around(getattr(os, name)))


class Clock:
    """A clock that jumps by years, forward and back, each time it is read."""

    def __init__(self, seed: int) -> None:
        self.choose, self.time = random.Random(seed), time.time

    def jump(self) -> float:
        return self.choose.choice([-1, 0, 1]) * 10 * 365 * 86400.0

    def install(self) -> None:
        """Take the place of the clock that tells the date; others only count seconds."""
        import condense.progress

        clock = self

        class Jumping(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + timedelta(seconds=clock.jump())

        time.time = lambda: self.time() + self.jump()
        condense.progress.datetime = Jumping  # type: ignore[misc]
