"""Stand between a command and the functions by which it writes, so that something happens there."""

import os
import sqlite3
from collections.abc import Callable
from typing import Any

WATCHED = ("fsync", "replace", "rename", "link", "mkdir", "rmdir", "unlink", "write")
"""Functions of `os` that write. A fault may come before and after each call."""


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
