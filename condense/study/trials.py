"""The store of trials: each finished task of a study is a row in an SQLite file, written at once.

Killing a study loses the tasks that are running, and nothing else. Several processes of one machine
may write to one store at the same time. This works because of SQLite's write-ahead log, and does
not work over a network file system. Each row has a checksum, so that a damaged file is noticed.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

from condense.errors import UserError, reason
from condense.writing import check_in_use, make_folder

VERSION = 2
"""The version of the file. Version 1 had one column for each field of a training's key."""
_APPLICATION = 0x434B4E41
"""`CKNA` in ASCII: marks our files among other SQLite databases."""
_PAGE = 512
"""The bytes that a database has at least. SQLite takes a smaller file for an empty one."""
_WAIT = 60.0
"""Seconds that a writer waits for another one."""
_TABLE = """CREATE TABLE trials (
    kind TEXT NOT NULL, task TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL,
    host TEXT NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, task)) WITHOUT ROWID"""


class Key(NamedTuple):
    """What identifies a trial in a store that several studies share.

    >>> Key.of("evaluate", network="convnet", repeat=3)
    Key(kind='evaluate', task='{"network": "convnet", "repeat": 3}')
    """

    kind: str
    """The sort of task. A study reads all rows of a kind together."""
    task: str
    """Everything that the result depends on, as JSON with sorted keys."""

    @classmethod
    def of(cls, kind: str, **facts: Any) -> "Key":
        """The key of the task that these facts describe; their values must fit into JSON."""
        return cls(kind, json.dumps(facts, sort_keys=True))


@dataclass(frozen=True)
class Trial:
    """A finished task: its result, the seconds that it took, and the machine that it ran on.

    The result must fit into JSON: numbers, texts, lists and dictionaries. Numbers that are not
    finite come back from the store as NaN.

    >>> trial = Trial(Key.of("demo", seed=0), {"accuracy": 0.5}, seconds=1.2, host="here")
    >>> trial.key.kind
    'demo'
    """

    key: Key
    result: dict[str, Any]
    seconds: float
    host: str


class Trials:
    """A store of trials in one file, which is made if it does not exist.

    Use it in a `with` statement, or close it. Raises `UserError` for a file that is not a store, or
    that has another version or is damaged.

    >>> with Trials(":memory:") as store:
    ...     store.add(Trial(Key.of("demo", seed=0), {"accuracy": 0.5}, 1.2, "here"))
    ...     store.find("demo")[Key.of("demo", seed=0)].result
    True
    {'accuracy': 0.5}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._named_errors():
            make_folder(self.path.parent)
            self._db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        with self._transaction():
            if not self._one("SELECT count(*) FROM sqlite_master") and not self._one(
                "PRAGMA application_id"
            ):
                if self.path.exists() and 0 < self.path.stat().st_size < _PAGE:
                    raise UserError(
                        f"`{self.path}` is damaged (it was cut short): restore it, or name another "
                        "file"
                    )
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif self._one("PRAGMA application_id") != _APPLICATION:
                raise UserError(
                    f"`{self.path}` is a database of another program, not a store of trials: "
                    "name another file"
                )
            elif (version := self._one("PRAGMA user_version")) != VERSION:
                raise UserError(
                    f"`{self.path}` is a store of version {version}, "
                    f"this program writes version {VERSION}: name another file"
                )
        if (fault := self._one("PRAGMA integrity_check")) != "ok":
            fault = fault.splitlines()[-1]  # a headline comes first
            raise UserError(f"`{self.path}` is damaged ({fault}): restore it, or name another file")
        if self._one("PRAGMA journal_mode") != "wal":  # the switch needs the file to itself
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a finished task also survives a power cut

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn errors of the file or the disk into a `UserError`, since the user can mend them.

        In a folder that was removed SQLite may go on as if nothing had happened.
        """
        try:
            yield
            check_in_use(self.path.parent)
        except UnicodeDecodeError as error:  # SQLite quotes the damaged name of a table
            raise UserError(
                f"`{self.path}` is damaged (the name of a table is no text): restore it, "
                "or name another file"
            ) from error
        except (sqlite3.Error, OSError) as error:
            check_in_use(self.path.parent)
            why = reason(error)  # its first line alone: it may quote what the file holds
            raise UserError(
                f"`{self.path}` cannot be used as a store of trials: {why}; name another file"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add(self, trial: Trial) -> bool:
        """Store a finished task. When this returns, it survives a power cut.

        Returns False, and changes nothing, if the store already has a trial with this key.
        """
        row = (*trial.key, _dump(trial.result), float(trial.seconds), trial.host)
        with self._named_errors():
            query = "INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?)"
            return self._db.execute(query, (*row, _checksum(row))).rowcount == 1

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind by their keys, in the order of the keys.

        Raises `UserError` for a damaged row.
        """
        trials = {}
        for *row, checksum in self._select("*", kind):
            if checksum != _checksum(tuple(row)):
                raise UserError(
                    f"`{self.path}` is damaged: the trial {row[1]} does not match its checksum; "
                    "restore the file"
                )
            key = Key(*row[:2])
            try:
                trials[key] = Trial(key, _load(row[2]), row[3], row[4])
            except (ValueError, TypeError, RecursionError):
                raise UserError(
                    f"`{self.path}` is no store of ours: the result of the trial {row[1]} is not "
                    "JSON; name another file"
                ) from None
        return trials

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind: the tasks that a resumed study need not do again."""
        return {Key(*row) for row in self._select("kind, task", kind)}

    def _select(self, columns: str, kind: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM trials WHERE kind = ? ORDER BY task"
        with self._named_errors(), closing(self._db.execute(query, (kind,))) as cursor:
            return cursor.fetchall()

    def __len__(self) -> int:
        return self._one("SELECT count(*) FROM trials")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def reading(path: str | Path) -> Iterator[Trials]:
    """A store that is only looked at, also where nothing can be written.

    Where there is no file, the store is empty, and no file is made.

    >>> with reading("no-such.sqlite") as store:
    ...     len(store)
    0
    """
    path = Path(path)
    if not path.exists():
        with Trials(":memory:") as store:
            yield store
    elif all(os.access(place, os.W_OK) for place in (path, path.parent)):
        with Trials(path) as store:
            yield store
    else:  # SQLite writes beside a file even to read it
        with TemporaryDirectory() as folder:
            for part in (path, path.with_name(f"{path.name}-wal")):
                if part.exists():
                    shutil.copyfile(part, Path(folder, part.name))
            with Trials(Path(folder, path.name)) as store:
                store.path = path
                yield store


def _checksum(row: tuple[Any, ...]) -> bytes:
    return blake2b(repr(row).encode(), digest_size=8).digest()


def _dump(result: dict[str, Any]) -> str:
    """The result as JSON, which has neither NaN nor infinity: both become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return json.dumps(plain(result), allow_nan=False)


def _load(text: str) -> dict[str, Any]:
    """The result from its JSON; each null becomes NaN."""

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: number(item) for name, item in value.items()}
        if isinstance(value, list):
            return [number(item) for item in value]
        return nan if value is None else value

    return number(json.loads(text))
