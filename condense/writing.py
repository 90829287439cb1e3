"""Files and folders that appear complete or not at all.

What is written lies beside its destination first, under a name that nobody can guess, is flushed to
disk, and is then renamed; the folder is flushed after it. A reader therefore sees either the old
content or the new, never part of it, even if the run is killed or the power fails in between.

While a process writes, it holds a lock on what it writes. Whoever writes into a folder next removes
what lies there without a lock, because its process has been killed.

Folders are created where they are missing, except one that a run works in: if somebody removes it,
the run ends.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from condense.errors import UserError

_OURS = re.compile(r"\.condensekit-[0-9a-f]{32}\.part")
"""The names of what is being written."""
_TRIES = 100
"""Attempts to make a file or folder that other processes remove at once."""
_OLD = 24 * 3600
"""Seconds after which it is left over in any case, where the file system has no locks."""
_IN_USE = dict[str, tuple[int, int]]()
"""The absolute paths of the folders that this process works in, and their devices and inodes."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, creating its folder.

    Raises `UserError` if the disk is full or cannot be written, and for a device or a link.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_bytes(Path(folder, "new", "note.txt"), b"done")
    ...     Path(folder, "new", "note.txt").read_text()
    'done'
    """
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically. What UTF-8 cannot hold is escaped.

    Names of files may hold such characters.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_text(Path(folder, "note.txt"), "a\\udc80")
    ...     print(Path(folder, "note.txt").read_text())
    a\\udc80
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_json(Path(folder, "run.json"), {"ipc": 10})
    ...     print(Path(folder, "run.json").read_text().rstrip())
    {
      "ipc": 10
    }
    """
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into and to read from, which takes the place of `path` at the end.

    Its folder is created, and its permissions are those of any new file. If an exception ends the
    block, `path` is as it was before. Raises `UserError` if it cannot be written, and if `path` is
    there but no regular file: a folder, a device, a pipe or a link.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "new", "note.txt")
    ...     with replacing(path) as file:
    ...         _ = file.write(b"done")
    ...     path.read_text()
    'done'
    """
    with (
        _beside(path, _new_file, stat.S_ISREG) as (_, handle),
        os.fdopen(handle, "w+b", closefd=False) as file,
    ):
        yield file


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` at the end.

    Raises `UserError` if it cannot be written, and if `path` is there but no empty folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing_folder(Path(folder, "notes")) as beside:
    ...         _ = Path(beside, "1.txt").write_text("done")
    ...     Path(folder, "notes", "1.txt").read_text()
    'done'
    """
    with _beside(path, _new_folder, stat.S_ISDIR) as (beside, _):
        yield beside
        for parent, _, names in os.walk(beside):
            for one in (*(os.path.join(parent, name) for name in names), parent):
                _flush(one)


def make_folder(folder: Path) -> None:
    """Create `folder` and the folders it is in, so that they outlast a power failure.

    Raises `UserError` where a folder that is `in_use` was removed, and `OSError` where a folder
    cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_folder(Path(folder, "runs", "digits"))
    ...     Path(folder, "runs", "digits").is_dir()
    True
    """
    check_in_use(folder)
    for one in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        one.mkdir(exist_ok=True)
        _flush(one.parent)


def check_in_use(folder: Path) -> None:
    """Raise a `UserError` if `folder`, or one that it is in, was `in_use` and then removed.

    >>> check_in_use(Path("runs"))
    """
    for one in (folder, *folder.parents):
        known = _IN_USE.get(os.path.abspath(one))
        if known is not None and not _leads_to(one, known):
            raise UserError(f"{one} was removed while a run worked in it: start it again")


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[Path]:
    """Inside, `folder` is there, and nothing that this process writes makes it anew if it vanishes.

    Yields the folder. Raises `UserError` if it cannot be made or read.

    >>> import tempfile
    >>> with in_use(Path(tempfile.mkdtemp())) as folder:
    ...     folder.rmdir()
    ...     write_text(folder / "plan.json", "{}")
    Traceback (most recent call last):
    condense.errors.UserError: ... was removed while a run worked in it: start it again
    """
    path = os.path.abspath(folder)
    try:
        make_folder(folder)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    try:  # while the handle is open, no other folder gets the inode
        _IN_USE[path] = _identity(os.fstat(handle))
        yield folder
    finally:
        _IN_USE.pop(path, None)
        os.close(handle)


def folders_in_use() -> dict[str, tuple[int, int]]:
    """What a worker process has to know of the folders `in_use` here (see `use_too`).

    >>> folders_in_use()
    {}
    """
    return dict(_IN_USE)


def use_too(folders: Mapping[str, tuple[int, int]]) -> None:
    """In a worker: work in the folders that its parent has `in_use`, to the end of the worker.

    >>> use_too(folders_in_use())
    """
    _IN_USE.update(folders)


def check_new(path: Path, *, force: bool = False) -> None:
    """Raise a `UserError` if a file that a user may want to keep is at `path`.

    With `force`, a regular file may be there. Nothing else may ever be.

    >>> check_new(Path("no-such-file"))
    >>> check_new(Path("/dev/null"), force=True)
    Traceback (most recent call last):
    condense.errors.UserError: cannot write /dev/null: there is something that is no regular file...
    """
    _check_kind(path, stat.S_ISREG)
    if os.path.lexists(path) and not force:
        raise UserError(f"{path} exists: choose another name, or replace it with --force")


@contextlib.contextmanager
def _beside(
    path: Path, make: Callable[[Path], int], kind: Callable[[int], bool]
) -> Iterator[tuple[Path, int]]:
    """What `make` makes beside `path`, and its locked handle; it replaces `path` at the end."""
    try:
        _check_kind(path, kind)
        make_folder(path.parent)
        _sweep(path.parent)
        beside, handle = _locked(path.parent, make)
        try:
            yield beside, handle
            _fsync(handle)
            os.replace(beside, path)
            _flush(path.parent)
        except BaseException:
            _remove(beside)
            raise
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error


def _check_kind(path: Path, kind: Callable[[int], bool]) -> None:
    """Raise a `UserError` if `path` is there and is not of this kind. A link is never followed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not kind(path.lstat().st_mode):
            wanted = "regular file" if kind is stat.S_ISREG else "folder"
            raise UserError(
                f"cannot write {path}: there is something that is no {wanted}, "
                "and it is not replaced; choose another name"
            )


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return _opened(path)


def _leads_to(path: Path, folder: tuple[int, int]) -> bool:
    try:
        return _identity(path.stat()) == folder
    except FileNotFoundError:
        return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _opened(path: Path | str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _locked(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new file or folder in `folder`, and a handle that holds its lock."""
    for tries_left in reversed(range(_TRIES)):
        beside = folder / f".condensekit-{secrets.token_hex(16)}.part"
        try:
            handle = make(beside)
        except FileNotFoundError:  # or the folder takes no files, as /proc
            if not (tries_left and folder.is_dir()):
                raise
            continue
        if not _is_locked(handle) and beside.exists():
            return beside, handle
        # Another process took it for a leftover before it was locked here, and removes it.
        os.close(handle)
    raise OSError(errno.EAGAIN, "other processes remove what is written")


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left in `folder`, as far as that is allowed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry) for entry in entries if _OURS.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                handle = _opened(path)
                try:
                    age = time.time() - os.fstat(handle).st_mtime
                    locked = _is_locked(handle)
                    if locked is False or (locked is None and age > _OLD):
                        _remove(path)
                finally:
                    os.close(handle)


def _is_locked(handle: int) -> bool | None:
    """Whether another handle holds the lock; None where there are no locks. This one takes it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path | str) -> None:
    """Flush a file or a folder to disk."""
    try:
        handle = _opened(path)
    except PermissionError:  # a folder that may be written to, but not listed
        return
    try:
        _fsync(handle)
    finally:
        os.close(handle)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # it cannot flush folders
            raise
