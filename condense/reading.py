"""The gate for input: files that users give are read here, with limits on type, size and depth.

Only regular files are opened, so that a named pipe cannot block a command and a device cannot fill
the memory. Whatever is wrong with a file is a `UserError` of one line that names it.
"""

import csv
import gzip
import io
import json
import math
import os
import stat
import tomllib
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from condense.errors import UserError

_MIB = 2**20
MOST_BYTES = 64 * _MIB
"""The most bytes that a text file may have, after it is decompressed."""
_DEEPEST = 32
"""How deeply JSON and TOML may be nested. Our own files have 6 levels."""
_OTHERS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def usable_path(text: str | Path) -> Path:
    """The path that a text names, with `~` replaced by the home folder.

    Nothing need be there, but it must be a path that the system can look for: not empty, not too
    long, not in a circle of links, and in folders that one may look into. Raises `UserError` for
    anything else.

    >>> usable_path("runs/digits")
    PosixPath('runs/digits')
    >>> usable_path("")
    Traceback (most recent call last):
    condense.errors.UserError: an empty text is not a path: name a file or a folder
    """
    if not str(text):
        raise UserError("an empty text is not a path: name a file or a folder")
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # what is made there, or what is missing, is for others to say
    except OSError as error:
        raise UserError(f"{text} cannot be used as a path: {error.strerror}") from None
    except ValueError:
        raise UserError("a path cannot contain a NUL character") from None
    except RuntimeError:
        raise UserError(f"{text} cannot be used as a path: there is no such home folder") from None
    return path


def open_file(path: str | Path) -> BinaryIO:
    """The regular file at `path`, opened for reading bytes.

    Raises `UserError` if it does not exist, cannot be read, or is a folder, a pipe or a device.

    >>> open_file("/dev/null")
    Traceback (most recent call last):
    condense.errors.UserError: /dev/null is a device, not a file
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path!s} is not a path: it contains a NUL character") from None
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise UserError(f"{path} is {_OTHERS.get(kind, 'something else')}, not a file")
    return os.fdopen(handle, "rb")


def check_file(path: str | Path) -> None:
    """Raise a `UserError` unless `path` is a regular file that can be read.

    >>> check_file("no-such-file")
    Traceback (most recent call last):
    condense.errors.UserError: no-such-file does not exist
    """
    open_file(path).close()


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The content of the file at `path`, of `most` bytes at most.

    Raises `UserError` as `open_file` does, and for a larger file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"12345"), file.flush()
    ...     read_bytes(file.name, most=5)
    b'12345'
    """
    with open_file(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
    _check_size(path, content, most)
    return content


def read_text(path: str | Path) -> str:
    """The text in the UTF-8 file at `path`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"one two"), file.flush()
    ...     read_text(file.name)
    'one two'
    """
    return _decoded(path, read_bytes(path))


def read_json(path: str | Path) -> Any:
    """The value in the JSON file at `path`.

    JSON is meant strictly: a name that occurs twice in one object, NaN and infinity are errors.
    Raises `UserError` for a file that is missing or damaged.

    >>> read_json(Path("no-such-run.json"))
    Traceback (most recent call last):
    condense.errors.UserError: no-such-run.json does not exist
    """
    text = read_text(path)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_once_each,
            parse_float=_finite,
            parse_constant=_finite,
        )
        _check(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values in the TOML file at `path`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"steps = 3"), file.flush()
    ...     read_toml(file.name)
    {'steps': 3}
    """
    text = read_text(path)
    try:
        values = tomllib.loads(text)
        _check(values)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    return values


def read_table(path: str | Path) -> list[list[str]]:
    """The rows of the CSV file at `path`, plain or gzipped, without those that are empty.

    All rows have the same length as the first. Raises `UserError` for a file that is missing or
    damaged, and for one that expands to too many bytes.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"index,accuracy\\n5,91.2\\n"), file.flush()
    ...     read_table(file.name)
    [['index', 'accuracy'], ['5', '91.2']]
    """
    content = read_bytes(path)
    if content[:2] == b"\x1f\x8b":
        content = _decompressed(path, content)
    text = io.StringIO(_decoded(path, content), newline="")
    try:
        rows = [row for row in csv.reader(text, strict=True) if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error})") from None
    for line, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{path}, line {line}: {len(row)} values for {len(rows[0])} columns; "
                "the file is damaged"
            )
    return rows


def _decompressed(path: str | Path, content: bytes) -> bytes:
    """What gzipped content expands to, up to the limit of size."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            expanded = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a readable gzip file ({error})") from None
    _check_size(path, expanded, MOST_BYTES)
    return expanded


def _decoded(path: str | Path, content: bytes) -> str:
    try:
        return content.decode().removeprefix("\ufeff")  # Windows marks UTF-8 by it
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is not UTF-8"
        raise UserError(f"{path} is damaged or no text: {place}") from None


def _check_size(path: str | Path, content: bytes, most: int) -> None:
    if len(content) > most:
        raise UserError(f"{path} is too large: it holds more than {most:,} bytes")


def _check(value: Any, left: int = _DEEPEST) -> None:
    """Raise `ValueError` for what is nested too deeply, and for numbers that are too large."""
    if isinstance(value, dict | list):
        if not left:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, left - 1)
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError("it holds a whole number of more than 64 bits")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values; each name may occur once."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"`{twice}` occurs twice in one object")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
