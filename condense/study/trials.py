"""The store of trainings: every training of a search is a row in SQLite, written as it finishes.

Killing a search loses the trainings in flight and nothing else. Several processes of one machine may write to one
store at once (write-ahead log; not over a network file system).
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any

from condense.errors import UserError

VERSION = 1
_APPLICATION = 0x434B4E41  # "CKNA": tells our files from other SQLite databases
_WAIT = 60.0  # seconds that a writer waits for another one
_TABLE = """CREATE TABLE trials (
    space TEXT NOT NULL, architecture TEXT NOT NULL, proxy TEXT NOT NULL, seed INTEGER NOT NULL, recipe TEXT NOT NULL,
    curve TEXT NOT NULL, scores TEXT NOT NULL, seconds REAL NOT NULL, host TEXT NOT NULL,
    PRIMARY KEY (space, architecture, proxy, seed, recipe)) WITHOUT ROWID"""


@dataclass(frozen=True, order=True)
class Key:
    """What identifies a training: search space, architecture by name, fingerprint of the proxy set, seed, recipe.

    `recipe` is any text that stands for all hyperparameters of the training.
    """

    space: str
    architecture: str
    proxy: str
    seed: int
    recipe: str


@dataclass(frozen=True)
class Trial:
    """A finished training: its numbers per epoch by name, its scores by name, its wall time and where it ran.

    Numbers that are not finite come back from the store as NaN.
    """

    key: Key
    curve: dict[str, list[float]]
    scores: dict[str, float]
    seconds: float
    host: str


_KEY = tuple(field.name for field in fields(Key))


class Trials:
    """A store of trainings in one file, made where there is none.

    A file that is no store, or one of another version, is a `UserError`. To be closed, or used in a `with`.
    """

    def __init__(self, path: str | Path):
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
            version, application, tables = (
                self._db.execute(query).fetchone()[0]
                for query in (
                    "PRAGMA user_version",
                    "PRAGMA application_id",
                    "SELECT count(*) FROM sqlite_master",
                )
            )
            if not tables and not application:
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif application != _APPLICATION:
                raise UserError(
                    f"`{self.path}` is a database of another program, no store of trainings: name another file"
                )
            elif version != VERSION:
                raise UserError(
                    f"`{self.path}` is a store of version {version}, this program writes version {VERSION}: name another file"
                )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(
            "PRAGMA synchronous = FULL"
        )  # a finished training also survives a power cut

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What the file or the disk cannot do is the user's to mend."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"`{self.path}` cannot be used as a store of trainings: {error}; name another file"
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
        """Store a finished training, durably on return. False, and nothing changed, where its key is stored already."""
        values = [
            *asdict(trial.key).values(),
            _dump(trial.curve),
            _dump(trial.scores),
            trial.seconds,
            trial.host,
        ]
        marks = ", ".join("?" * len(values))
        with self._named_errors():
            return (
                self._db.execute(f"INSERT OR IGNORE INTO trials VALUES ({marks})", values).rowcount
                == 1
            )

    def get(self, key: Key) -> Trial | None:
        """The training of this key, if it is finished."""
        return next(iter(self.find(**asdict(key))), None)

    def find(self, **where: str | int) -> list[Trial]:
        """The trainings whose key has these fields (`space="convnet720", seed=0`), in the order of their keys."""
        rows = self._select("*", where)
        return [Trial(Key(*row[:5]), _load(row[5]), _load(row[6]), row[7], row[8]) for row in rows]

    def keys(self, **where: str | int) -> set[Key]:
        """The keys of these trainings: what a resumed search need not do again."""
        return {Key(*row) for row in self._select(", ".join(_KEY), where)}

    def _select(self, columns: str, where: dict[str, str | int]) -> list[tuple[Any, ...]]:
        if wrong := set(where) - set(_KEY):
            raise TypeError(f"{sorted(wrong)} are no fields of a key: {_KEY}")
        condition = " AND ".join(f"{field} = ?" for field in where) or "TRUE"
        query = f"SELECT {columns} FROM trials WHERE {condition} ORDER BY {', '.join(_KEY)}"
        with closing(self._db.execute(query, tuple(where.values()))) as cursor:
            return cursor.fetchall()

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM trials").fetchone()[0]

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> "Trials":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _dump(numbers: dict[str, Any]) -> str:
    """Standard JSON has no NaN and no infinity: both become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return float(value) if isfinite(value) else None

    return json.dumps(plain(numbers), allow_nan=False)


def _load(text: str) -> dict[str, Any]:
    def number(value: float | None) -> float:
        return nan if value is None else value

    numbers = json.loads(text)
    return {
        name: [number(v) for v in item] if isinstance(item, list) else number(item)
        for name, item in numbers.items()
    }
