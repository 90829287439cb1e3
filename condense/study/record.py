"""The record of a plan: a JSON file that says what a folder is for, and keeps other plans out."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from condense.errors import UserError
from condense.reading import read_json
from condense.settings import read_value, within
from condense.writing import in_use, write_json

_DIGEST = "digest"
"""The field of a record that the others are checked by."""
_FOLDER = "condensekit_folder"
"""The attribute of an exception that `folder_of` reads."""


@dataclass(frozen=True)
class Record:
    """The file `name` in a folder, which holds one plan, and other facts beside it.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> record = Record(Path(folder), "plan.json", "run", "continual")
    >>> record.write({"plan": {"steps": 5}})
    >>> record.check_free({"plan": {"steps": 10}})
    Traceback (most recent call last):
    condense.errors.UserError: ... holds another run (plan.steps 5 there, 10 here): choose ...
    """

    folder: Path
    name: str
    """The name of the file."""
    kind: str
    """What messages call the content of the folder: `run`, `search`."""
    command: str
    """The command that continues the work in the folder."""
    files: tuple[str, ...] = ()
    """The other files that are written: in the folder of new work there are none of that name."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.folder / self.name

    def exists(self) -> bool:
        """Whether the folder holds a plan."""
        return self.path.exists()

    def read(self) -> dict[str, Any]:
        """The content. Raises `UserError` if the file does not exist or is damaged."""
        if not self.exists():
            raise UserError(
                f"{self.folder} holds no {self.kind} (no {self.name}): "
                f"start one with `condensekit {self.command} --out {self.folder}`"
            )
        return read_record(self.path)

    def write(self, content: dict[str, Any]) -> None:
        """Replace the content."""
        write_record(self.path, content)

    def check_free(self, plan: dict[str, Any]) -> None:
        """Raise a `UserError` if the folder already holds a plan, whether this one or another.

        Every field of `plan` is compared with the field of the same name in the file. Other fields
        of the file do not matter.
        """
        if self.exists():
            self.check_same(plan)
            raise UserError(
                f"{self.folder} already holds this {self.kind}: "
                f"go on with `condensekit {self.command} --resume {self.folder}`"
            )
        check_none(self.folder, self.files)

    def check_same(self, plan: dict[str, Any]) -> None:
        """Raise a `UserError` that names the differences, unless the folder holds this plan."""
        content, plan = self.read(), json.loads(json.dumps(plan))  # as it would be read back
        recorded = {field: content.get(field) for field in plan}
        if changed := differences(plan, recorded):
            raise UserError(
                f"{self.folder} holds another {self.kind} ({changed}): choose another --out"
            )


def check_none(folder: Path, names: Iterable[str]) -> None:
    """Raise a `UserError` if a folder in which work begins has a file of one of these names.

    >>> check_none(Path("nowhere"), ["report.html"])
    >>> check_none(Path("/dev"), ["null"])
    Traceback (most recent call last):
    condense.errors.UserError: /dev/null is there already, and is not replaced: choose another --out
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise UserError(
                f"{folder / name} is there already, and is not replaced: choose another --out"
            )


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON with a digest of it, atomically.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(Path(folder, "plan.json"), {"steps": 5})
    ...     read_record(Path(folder, "plan.json"))
    {'steps': 5}
    """
    write_json(path, content | {_DIGEST: _digest(content)})


def read_record(path: Path) -> dict[str, Any]:
    """The content that `write_record` wrote.

    Records of older versions have no digest and are read as they are. Raises `UserError` for a file
    that is missing or damaged, or was edited.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "plan.json").write_text('{"steps": 6, "digest": "0123"}')
    ...     read_record(Path(folder, "plan.json"))
    Traceback (most recent call last):
    condense.errors.UserError: ...plan.json is damaged, or was edited: ... does not match its digest
    """
    with within(f"{path} is not of this version of condensekit"):
        content = read_value(dict[str, Any], read_json(path), path.name)
    if content.pop(_DIGEST, (known := _digest(content))) != known:
        raise UserError(f"{path} is damaged, or was edited: its content does not match its digest")
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in content.items() if key != _DIGEST})
    return blake2b(text.encode(), digest_size=8).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside this context, `folder` is `in_use`, and no other process may work in it.

    Raises `UserError` if another process works in it, or if the folder cannot be made. A folder
    that is empty at the end is removed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> with locked(folder):
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """
    with in_use(folder):
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{folder} is in use by another run: wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror}") from None
        try:
            yield
        except Exception as error:
            vars(error).setdefault(_FOLDER, folder)
            raise
        finally:
            lock.release()
            with suppress(OSError):  # someone may have removed it
                if [path.name for path in folder.iterdir()] == [".lock"]:  # the work left nothing
                    (folder / ".lock").unlink()
                    folder.rmdir()


def folder_of(error: Exception) -> Path | None:
    """The folder that was `locked` when an exception passed; None if there was none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         with locked(Path(folder, "run")):
    ...             1 / 0
    ...     except ZeroDivisionError as error:
    ...         folder_of(error).name
    'run'
    """
    return vars(error).get(_FOLDER)


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """The first three settings in which two plans differ, with both values, as text.

    The text is empty if the plans are the same. Nested settings are named `outer.inner`.

    >>> differences({"ipc": 10, "recipe": {"lr": 1.0}}, {"ipc": 10, "recipe": {"lr": 0.1}})
    'recipe.lr 0.1 there, 1.0 here'
    """
    mine, theirs = _flat(here), _flat(there)
    changed = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    return ", ".join(f"{key} {theirs.get(key)} there, {mine.get(key)} here" for key in changed[:3])


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings with nested ones in the same dictionary, under `outer.inner`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
