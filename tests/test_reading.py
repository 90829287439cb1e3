"""The gate for input: what is no file, too large, too deep or no text is one line, and quick."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from condense import UserError
from condense.files import load_tensors
from condense.reading import read_bytes, read_json, read_table, read_text, read_toml, usable_path

READERS = [read_bytes, read_text, read_json, read_toml, read_table, load_tensors]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder"])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, reader: Callable[[Path], Any], kind: str
) -> None:
    path = tmp_path / "input"
    if kind == "a named pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    elif kind == "a device":
        path.symlink_to("/dev/zero")  # it never ends
    else:
        path.mkdir()
    with pytest.raises(UserError, match=f"input is {kind}, not a file"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_there_or_in_a_circle_of_links(
    tmp_path: Path, reader: Callable[[Path], Any]
) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "one", "symbolic links"),
        (tmp_path / ("x" * 5000), "too long"),
        (tmp_path / "a\0b", "NUL"),
    ):
        with pytest.raises(UserError, match=message):
            reader(path)


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (read_json, b"[" * 100_000, "recursion|nested"),
        (read_json, json.dumps([[[[[[[[]]]]]]]]).encode() * 2, "damaged"),
        (read_json, b'{"a": 1, "a": 2}', "`a` occurs twice"),
        (read_json, b'{"a": NaN}', "not a finite number"),
        (read_json, b'{"a": 1e999}', "not a finite number"),
        (read_json, b"9" * 5000, "damaged"),
        (read_json, b"9" * 30, "64 bits"),
        (read_json, b"\xff", "byte 0 is not UTF-8"),
        (read_toml, b"a = " + b"[" * 50 + b"]" * 50, "nested"),
        (read_toml, b"a = 0x" + b"f" * 9000, "64 bits"),
        (read_table, b"a\n" + b"x" * 200_000, "field larger than field limit"),
        (read_table, b"a,b\n1\n", "1 values for 2 columns"),
        (read_table, gzip.compress(b"\n" * (65 << 20), mtime=0), "too large"),
        (read_table, gzip.compress(b"a,b\n1,2\n", mtime=0)[:-5], "not a readable gzip file"),
    ],
)
def test_bad_content_is_one_line(
    tmp_path: Path, reader: Callable[[Path], Any], content: bytes, message: str
) -> None:
    (tmp_path / "input").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        reader(tmp_path / "input")
    assert "\n" not in str(caught.value)


def test_a_file_may_have_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"12345")
    assert read_bytes(tmp_path / "input", most=5) == b"12345"
    with pytest.raises(UserError, match="more than 4 bytes"):
        read_bytes(tmp_path / "input", most=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty text is not a path"),
        ("a\0b", "NUL"),
        ("x" * 5000, "too long"),
        ("~nosuchuser/data", "no such home folder"),
    ],
)
def test_what_is_no_path(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        usable_path(text)


@pytest.mark.parametrize(
    ("reader", "content", "value"),
    [
        (read_text, "5", "5"),
        (read_json, "[5]", [5]),
        (read_toml, "a = 5", {"a": 5}),
        (read_table, "a\n5\n", [["a"], ["5"]]),
    ],
)
def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_it(
    tmp_path: Path, reader: Callable[[Path], Any], content: str, value: Any
) -> None:
    (tmp_path / "input").write_text(content, "utf-8-sig")
    assert reader(tmp_path / "input") == value


def test_home_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert usable_path("~/data") == Path("/somewhere/data")
