"""The store of trials: every finished task of a study is a row in SQLite, written as it finishes.

Killing a study loses the tasks in flight and nothing else. Several processes of one machine may write to one store at
once (write-ahead log; not over a network file system). A row carries a checksum, so that a damaged file is noticed.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple, Self

from condense.errors import UserError

VERSION = 2
"""Of the file. Version 1 had a table of its own for each field of a training's key."""
_APPLICATION = 0x434B4E41  # "CKNA": tells our files from other SQLite databases
_WAIT = 60.0  # seconds that a writer waits for another one
_TABLE = """CREATE TABLE trials (
    kind TEXT NOT NULL, task TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL,
    host TEXT NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, task)) WITHOUT ROWID"""


class Key(NamedTuple):
    """What identifies a trial in a store that several studies share.

    >>> Key.of("evaluate", network="convnet", repeat=3)
    Key(kind='evaluate', task='{"network": "convnet", "repeat": 3}')
    """

    kind: str
    """What sort of task: its study, and whatever else separates the rows that a study reads together."""
    task: str
    """Everything the result depends on, as canonical JSON."""

    @classmethod
    def of(cls, kind: str, **facts: Any) -> "Key":
        """The key of a task with these facts, all plain JSON."""
        return cls(kind, json.dumps(facts, sort_keys=True))


@dataclass(frozen=True)
class Trial:
    """A finished task: its result, the seconds it took and the machine it ran on.

    The result is plain JSON: numbers, texts, lists and dictionaries. Numbers that are not finite come back from the
    store as NaN.
    """

    key: Key
    result: dict[str, Any]
    seconds: float
    host: str


class Trials:
    """A store of trials in one file, made where there is none. Use it in a `with`, or close it.

    Raises `UserError` for a file that is no store, is of another version, or is damaged.

    >>> with Trials(":memory:") as store:
    ...     store.add(Trial(Key.of("demo", seed=0), {"accuracy": 0.5}, 1.2, "here"))
    ...     store.find("demo")[Key.of("demo", seed=0)].result
    True
    {'accuracy': 0.5}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
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
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif self._one("PRAGMA application_id") != _APPLICATION:
                raise UserError(
                    f"`{self.path}` is a database of another program, no store of trials: name another file"
                )
            elif (version := self._one("PRAGMA user_version")) != VERSION:
                raise UserError(
                    f"`{self.path}` is a store of version {version}, this program writes version {VERSION}: "
                    "name another file"
                )
        if (fault := self._one("PRAGMA integrity_check")) != "ok":
            raise UserError(f"`{self.path}` is damaged ({fault}): restore it, or name another file")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a finished task also survives a power cut

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What the file or the disk cannot do is the user's to mend."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"`{self.path}` cannot be used as a store of trials: {error}; name another file"
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
        """Store a finished task, durably on return. False, and nothing changed, where its key is stored already."""
        row = (*trial.key, _dump(trial.result), float(trial.seconds), trial.host)
        with self._named_errors():
            query = "INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?)"
            return self._db.execute(query, (*row, _checksum(row))).rowcount == 1

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind by their key, in the order of the keys. A damaged row is a `UserError`."""
        trials = {}
        for *row, checksum in self._select("*", kind):
            if checksum != _checksum(tuple(row)):
                raise UserError(
                    f"`{self.path}` is damaged: the trial {row[1]} does not match its checksum; restore the file"
                )
            key = Key(*row[:2])
            trials[key] = Trial(key, _load(row[2]), row[3], row[4])
        return trials

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind: what a resumed study need not do again."""
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


def _checksum(row: tuple[Any, ...]) -> bytes:
    return blake2b(repr(row).encode(), digest_size=8).digest()


def _dump(result: dict[str, Any]) -> str:
    """As JSON, which has no NaN and no infinity: both become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return json.dumps(plain(result), allow_nan=False)


def _load(text: str) -> dict[str, Any]:
    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: number(item) for name, item in value.items()}
        if isinstance(value, list):
            return [number(item) for item in value]
        return nan if value is None else value

    return number(json.loads(text))
