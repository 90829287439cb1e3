"""How commands end: one line, an exit code, and a trace in a file where nobody expected it."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import pytest

from condense.command import guard
from condense.study.interrupt import Interrupted
from condense.study.record import locked

ROOT = Path(__file__).parents[1]


def ended(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, folder: Path | None = None
) -> int | str | None:
    """How a command ends that raises `error`, where given while it works in `folder`."""

    @click.command()
    @click.argument("when")
    def fail(when: str) -> None:
        if folder is None:
            raise error
        with locked(folder):
            (folder / "work").touch()
            raise error

    monkeypatch.setattr(sys, "argv", ["fail", "now"])
    with pytest.raises(SystemExit) as stop:
        guard.run(fail)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FileNotFoundError(2, "No such file", "a\nb"), 2, "error: cannot use a b: No such file\n"),
        (Interrupted("stopped; go on"), 130, "stopped; go on\n"),
        (click.UsageError("wrong\n  use"), 2, "error: wrong use\n"),
    ],
)
def test_what_is_expected_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    message: str,
) -> None:
    assert ended(error, monkeypatch) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("working", [True, False])
def test_what_is_unexpected_leaves_its_trace_in_the_run_folder_or_the_temporary_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    working: bool,
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = tmp_path / "run" if working else None
    assert ended(RuntimeError("two\nlines"), monkeypatch, folder) == 1
    (trace,) = (folder or tmp_path / "tmp").glob("condensekit-error-*.txt")
    line = capsys.readouterr().err
    assert line.startswith("error: unexpected RuntimeError: two lines (full trace: ")
    assert str(trace) in line
    assert line.count("\n") == 1
    assert trace.read_text().startswith("fail now\n")
    assert "Traceback" in trace.read_text()


def test_a_full_disk_is_said_as_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(OSError(errno.ENOSPC, "No space left on device"), monkeypatch) == 2
    assert "cannot write: No space left on device" in capsys.readouterr().err


def test_a_thread_that_cannot_write_prints_no_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def write() -> None:
        thread = threading.Thread(target=open, args=("/no/such/folder/file", "w"))
        thread.start()
        thread.join()

    hook = threading.excepthook
    monkeypatch.setattr("sys.argv", ["write"])
    guard.run(write)
    assert capfd.readouterr().err == ""
    assert threading.excepthook is hook


@pytest.mark.parametrize(
    "text",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried ...",
        "could not create a primitive",
        "can't start new thread",
        "libfreetype.so.6: failed to map segment from shared object",
    ],
)
def test_no_memory_is_said_as_that(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ended(RuntimeError(text), monkeypatch) == 2
    assert "memory ran out: choose something smaller" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "benchmarks.demo", "--out", "demo"],
        ["cli.py", "experts", "--dataset", "digits", "--preprocess", "standard", "--out"],
    ],
)
def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path, command: list[str]) -> None:
    words = [word.replace("demo", str(tmp_path)) if word == "demo" else word for word in command]
    words += [str(tmp_path / "out")] if words[-1] == "--out" else []
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # progress is shown: it works
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    errors = first + process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith(("stopped after step", "interrupted"))
