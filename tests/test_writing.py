"""Writing files: complete or not at all, durable, and never over what is not ours."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from condense import writing
from condense.errors import UserError
from condense.study.record import locked
from condense.writing import check_new, replacing, replacing_folder, write_bytes

LEFT = f".condensekit-{'a' * 32}.part"


@pytest.fixture
def umask():
    """Set the umask for one test."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_permissions_follow_the_umask(mask, file, folder, tmp_path, umask):
    umask(mask)
    write_bytes(tmp_path / "new" / "a.txt", b"a")
    with replacing_folder(tmp_path / "pictures") as beside:
        (beside / "1.txt").write_text("1")
    assert mode(tmp_path / "new" / "a.txt") == file
    assert mode(tmp_path / "new") == folder
    assert mode(tmp_path / "pictures") == folder


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    def fail_in_a_file():
        with replacing(tmp_path / "a.txt") as file:
            file.write(b"new")
            raise ZeroDivisionError

    def fail_in_a_folder():
        with replacing_folder(tmp_path / "pictures") as beside:
            (beside / "1.txt").write_text("1")
            raise ZeroDivisionError

    write_bytes(tmp_path / "a.txt", b"old")
    for fail in (fail_in_a_file, fail_in_a_folder):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def system_calls(monkeypatch) -> list[tuple[str, str]]:
    """What is flushed and renamed from here on, by the paths behind the handles, in order."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(handle):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def seen_replace(source, target):
        calls.append(("replace", f"{source} {target}"))
        replace(source, target)

    monkeypatch.setattr(writing.os, "fsync", seen_fsync)
    monkeypatch.setattr(writing.os, "replace", seen_replace)
    return calls


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls = system_calls(monkeypatch)
    write_bytes(tmp_path / "new" / "deep" / "a.txt", b"a")
    made = [("fsync", str(tmp_path / "new")), ("fsync", str(tmp_path))]  # which hold new folders
    assert sorted(calls[:2]) == sorted(made)
    (flushed, beside), (renamed, names), last = calls[2:]
    assert (flushed, renamed) == ("fsync", "replace")
    assert names == f"{beside} {tmp_path / 'new' / 'deep' / 'a.txt'}"
    assert last == ("fsync", str(tmp_path / "new" / "deep"))


def test_everything_in_a_folder_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = system_calls(monkeypatch)
    with replacing_folder(tmp_path / "pictures") as beside:
        (beside / "cat").mkdir()
        (beside / "cat" / "1.png").write_bytes(b"1")
    end = [name for name, _ in calls].index("replace")
    flushed = {path for name, path in calls[:end] if name == "fsync"}
    assert {str(beside / "cat" / "1.png"), str(beside / "cat"), str(beside)} <= flushed
    assert calls[end + 1 :] == [("fsync", str(tmp_path))]


def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def unable(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(writing.os, "fsync", unable)
    write_bytes(tmp_path / "a.txt", b"a")
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def irregular(path: Path, kind: str) -> Path:
    """Something at `path` that no file may replace."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as it:
            it.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        return Path("/dev/null")
    else:
        target = path.with_name("precious.txt")
        target.write_text("mine") if kind == "link" else None
        path.symlink_to(target)
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "link", "broken link"])
def test_only_files_are_replaced(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = irregular(Path("a"), kind)
    before = path.lstat()
    for write in (
        lambda: write_bytes(path, b"new"),
        lambda: check_new(path),
        lambda: check_new(path, force=True),
    ):
        with pytest.raises(UserError, match=f"cannot write {path}: there is something"):
            write()
    assert os.path.samestat(path.lstat(), before)
    assert not Path("precious.txt").exists() or Path("precious.txt").read_text() == "mine"


def test_an_existing_file_is_new_only_by_force(tmp_path):
    check_new(tmp_path / "a.txt")
    (tmp_path / "a.txt").touch()
    check_new(tmp_path / "a.txt", force=True)
    with pytest.raises(UserError, match=r"a\.txt exists: choose another name, or .* --force"):
        check_new(tmp_path / "a.txt")


@pytest.mark.parametrize("content", ["a file in it", "no folder"])
def test_only_an_empty_folder_is_replaced(content, tmp_path):
    path = tmp_path / "pictures"
    path.write_text("mine") if content == "no folder" else path.mkdir()
    if content == "a file in it":
        (path / "mine.txt").touch()
    with pytest.raises(UserError, match="cannot write"), replacing_folder(path) as beside:
        (beside / "1.txt").write_text("1")
    assert os.listdir(tmp_path) == ["pictures"]
    assert path.is_file() or os.listdir(path) == ["mine.txt"]


def test_the_names_of_what_is_written_cannot_be_guessed(tmp_path):
    names = set()
    for number in range(20):
        with replacing(tmp_path / "a.txt"):
            names |= {name for name in os.listdir(tmp_path) if name != "a.txt"}
            assert len(names) == number + 1


WRITE = """
import sys
from pathlib import Path
from condense.writing import replacing, replacing_folder
kind, path = replacing if sys.argv[1] == "file" else replacing_folder, Path(sys.argv[2])
with kind(path) as beside:
    if sys.argv[1] == "file":
        beside.write(b"half")
        beside.flush()
    else:
        (beside / "1.txt").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_is_removed_by_the_next_and_not_before(kind, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, kind, tmp_path / "a"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    (beside,) = os.listdir(tmp_path)
    write_bytes(tmp_path / "other.txt", b"1")
    assert sorted(os.listdir(tmp_path)) == [beside, "other.txt"]  # its process is alive
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / beside).exists()
    write_bytes(tmp_path / "other.txt", b"2")
    assert os.listdir(tmp_path) == ["other.txt"]


def test_a_folder_that_vanishes_while_a_run_works_in_it_is_not_made_anew(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        shutil.rmtree(run)
        for file in (run / "plan.json", run / "frames" / "1.png"):
            with pytest.raises(UserError, match="run was removed while a run worked in it"):
                write_bytes(file, b"")
        with pytest.raises(UserError, match="was removed"), locked(run / "memories"):
            pass
    assert not run.exists()
    with locked(run):
        write_bytes(run / "plan.json", b"{}")
    assert (run / "plan.json").exists()


def test_only_what_is_ours_is_removed(tmp_path):
    others = [".condensekit-1.part", f"{LEFT}s", ".a.txt.tmp", "mine.part", ".condensekit-cache"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / LEFT).symlink_to(tmp_path / "mine.part")  # we never make links
    write_bytes(tmp_path / "a.txt", b"a")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.txt", LEFT])


def test_without_locks_only_what_is_a_day_old_is_removed(tmp_path, monkeypatch):
    def none(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(writing.fcntl, "flock", none)
    old, young = tmp_path / LEFT, tmp_path / LEFT.replace("a", "b")
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    write_bytes(tmp_path / "a.txt", b"a")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.txt", young.name])


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path):
    contents = [bytes([65 + number]) * 50_000 for number in range(4)]

    def write(content):
        for _ in range(20):
            write_bytes(tmp_path / "a.txt", content)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    write_bytes(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_said_at_once() -> None:
    with pytest.raises(UserError, match="cannot write /proc/note"):
        write_bytes(Path("/proc/note.txt"), b"done")
