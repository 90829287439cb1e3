"""Inject faults into commands: `python inject.py SCENARIO FOLDER FAULT=MOST ...`.

Up to MOST faults of each kind are tried, each in a forked process of its own. For each kind a line
of JSON says how many there were, and what did not end as promised.

The promise: nothing that is finished is lost, nothing is half-written, and who does what the one
line says ends with the same files as the undisturbed run.
"""

import ctypes
import errno
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scenarios
from scenarios import SCENARIOS, Scenario

LIMIT = 120.0
"""Seconds after which a command counts as hanging."""
_WATCHED = ("fsync", "replace", "rename", "link", "mkdir", "rmdir", "unlink", "write")
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
        for name in _WATCHED:
            setattr(os, name, self.around(getattr(os, name)))
        shim, fdopen, connect = self, os.fdopen, sqlite3.connect

        class Connection(sqlite3.Connection):
            execute = self.around(sqlite3.Connection.execute)  # type: ignore[assignment]

        class Halves:
            """A file that is written in two halves, with an event between them."""

            def __init__(self, file: Any) -> None:
                self.file = file

            def write(self, content: bytes) -> int:
                half = len(content) // 2
                self.file.write(content[:half])
                self.file.flush()
                shim.event()
                self.file.write(content[half:])
                return len(content)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def __enter__(self) -> "Halves":
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

        def opened(handle: int, mode: str = "r", *more: Any, **options: Any) -> Any:
            file = fdopen(handle, mode, *more, **options)
            return Halves(file) if "w" in mode and "b" in mode else file

        os.fdopen = opened
        sqlite3.connect = lambda *a, **o: connect(*a, **o, factory=Connection)


Attempt = tuple[int, str]
"""The exit code of a command, and what it printed."""


def start(
    arguments: list[str], prepare: Callable[[], None] = lambda: None
) -> Callable[[], Attempt]:
    """Begin a command in a forked process; returns the function that waits for its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            for stream in (1, 2):
                os.dup2(writer, stream)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            sys.argv = ["condensekit", *arguments]
            prepare()
            scenarios.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)

    def ended() -> Attempt:
        timer = threading.Timer(LIMIT, os.kill, (child, signal.SIGKILL))
        timer.start()
        with os.fdopen(reader, "rb") as pipe:
            printed = pipe.read().decode(errors="replace")
        status = os.waitpid(child, 0)[1]
        timer.cancel()
        return os.waitstatus_to_exitcode(status), printed

    return ended


def to_the_end(arguments: list[str]) -> Attempt:
    """Run a command, then what its error says to go on with, as a user would."""
    for _ in range(3):
        code, printed = start(arguments)()
        advice = re.search(r"go on with `([^`]*)`", printed)
        if code != 2 or not advice:
            break
        arguments = shlex.split(advice[1])
    return code, printed


def in_order(attempt: Attempt, codes: set[int]) -> str:
    """What is wrong with the end of a command; empty if it ended with one of `codes`, tracelessly.

    An error is one line. Other lines are those of progress and of results.
    """
    code, printed = attempt
    if "Traceback" in printed or code not in codes:
        return f"exit code {code}: {printed[-1500:]}"
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    return f"{len(errors)} errors: {printed[-1500:]}" if len(errors) != (code == 2) else ""


class Trial:
    """A scenario in a folder of its own, to be disturbed again and again."""

    def __init__(self, scenario: Scenario, home: Path) -> None:
        self.scenario, self.home = scenario, home
        self.wrong: list[str] = []
        self.tried = 0
        self.undisturbed = home / "undisturbed"
        self.begin(self.undisturbed)
        shim = Shim()
        counted = home / "count"

        def count() -> None:
            shim.install()
            end = os._exit
            os._exit = lambda code: (counted.write_text(str(shim.count)), end(code))  # type: ignore

        attempt = start(self.command(self.undisturbed), count)()
        assert attempt[0] == 0, attempt
        self.events = int(counted.read_text())
        self.expected = scenario.outcome(self.undisturbed)

    def begin(self, folder: Path) -> None:
        """Make what the scenario starts from."""
        if self.scenario.before:
            code, printed = start(self.scenario.before(folder))()
            assert code == 0, printed

    def command(self, folder: Path) -> list[str]:
        return self.scenario.command(folder)

    def fresh(self) -> Path:
        """A folder in which the scenario has not begun."""
        folder = self.home / "disturbed"
        shutil.rmtree(folder, ignore_errors=True)
        self.begin(folder)
        return folder

    def check(self, what: str, attempt: Attempt, codes: set[int], folder: Path) -> None:
        """Note what is wrong with a disturbed command, and with the end that it comes to."""
        self.tried += 1
        if wrong := in_order(attempt, codes):
            self.wrong.append(f"{what}: {wrong}")
        advice = re.search(r"go on with `(\w+)", attempt[1])
        if attempt[0] == 130 and advice and advice[1] != self.command(folder)[0]:
            self.wrong.append(f"{what}: {attempt[1]} names another command")
        if not folder.exists() and self.scenario.before:
            self.begin(folder)
        end = to_the_end(self.command(folder))
        if "Traceback" in end[1] or end[0] not in self.scenario.ends:
            self.wrong.append(f"{what}, then: exit code {end[0]}: {end[1][-1500:]}")
        elif self.scenario.outcome(folder) != self.expected:
            self.wrong.append(f"{what}: it ends differently")


def at_every_write(trial: Trial, fault: str, most: int) -> None:
    """A signal, a full disk or a vanished folder at up to `most` of the moments around writes."""
    points = list(range(1, trial.events + 1))
    if len(points) > most:
        points = sorted(random.Random(fault).sample(points, most))
    for at in points:
        folder = trial.fresh()
        act, codes = FAULTS[fault](folder)
        shim = Shim(at, act)
        attempt = start(trial.command(folder), shim.install)()
        trial.check(f"{fault} at write event {at} of {trial.events}", attempt, codes, folder)


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _full() -> None:
    """From now on every write fails, as on a disk that stays full."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "mkdir", "link", "replace", "rename", "write"):
        setattr(os, name, full)
    full()


FAULTS: dict[str, Callable[[Path], tuple[Callable[[], None], set[int]]]] = {
    "kill": lambda folder: (_signal(signal.SIGKILL), {-signal.SIGKILL, 0}),
    "int": lambda folder: (_signal(signal.SIGINT), {130, 0}),
    "term": lambda folder: (_signal(signal.SIGTERM), {130, 0}),
    "full": lambda folder: (_full, {2, 0}),
    "vanish": lambda folder: (lambda: shutil.rmtree(folder, ignore_errors=True), {2, 0}),
}


def small_files(trial: Trial, fault: str, most: int) -> None:
    """No file may grow beyond some bytes: the kernel's own full disk, also inside SQLite."""
    sizes = [0, 64, 1024, 4096, 10_000, 20_000, 33_000, 40_000, 70_000, 100_000][:most]
    for size in sizes:
        folder = trial.fresh()
        limit = (resource.RLIMIT_FSIZE, (size, size))
        attempt = start(trial.command(folder), lambda limit=limit: resource.setrlimit(*limit))()
        trial.check(f"files of {size} bytes at most", attempt, {2, 0}, folder)


def two_at_once(trial: Trial, fault: str, most: int) -> None:
    """Two processes begin the same at the same time: one works, the other says so or waits."""
    for number in range(most):
        folder = trial.fresh()
        ends = [start(trial.command(folder)) for _ in range(2)]
        first, second = (end() for end in ends)
        if 0 not in (first[0], second[0]):
            trial.wrong.append(f"neither of two processes ended well: {first}, {second}")
        for attempt in (first, second):
            trial.check(f"pair {number}", attempt, {0, 2}, folder)


def read_only(trial: Trial, fault: str, most: int) -> None:
    """In a folder where nothing can be written: looking is possible, working is one line."""
    folder = trial.home / "read-only"
    shutil.copytree(trial.undisturbed, folder)
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)

    for command, codes in trial.scenario.reads(folder):
        trial.tried += 1
        if wrong := in_order(start(command, _without_privileges)(), codes):
            trial.wrong.append(f"{' '.join(command)}, read-only: {wrong}")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def _without_privileges() -> None:
    """Give up the privilege of root to write where nobody may: all capabilities of Linux."""
    if os.getuid() == 0:
        version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()) == 0


def damaged(trial: Trial, fault: str, most: int) -> None:
    """A flipped bit or a cut in each file: it is noticed, or the outcome is the same."""
    choose = random.Random(fault)
    whole = [(command, start(command)()) for command, _ in trial.scenario.reads(trial.undisturbed)]
    files = sorted(path for path in trial.undisturbed.rglob("*") if path.stat().st_size)
    files = [path for path in files if path.is_file() and "tensorboard" not in path.parts]
    for number in range(most):
        file = files[number % len(files)]
        folder = trial.home / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trial.undisturbed, folder)
        content = bytearray(file.read_bytes())
        place = choose.randrange(len(content))
        if choose.random() < 0.7:
            content[place] ^= 1 << choose.randrange(8)
        else:
            del content[place:]
        (folder / file.relative_to(trial.undisturbed)).write_bytes(content)
        for (command, undisturbed), (_, codes) in zip(
            whole, trial.scenario.reads(folder), strict=True
        ):
            here = [word.replace(str(trial.undisturbed), str(folder)) for word in command]
            code, printed = start(here)()
            trial.tried += 1
            what = f"{file.name} damaged at {place}, {' '.join(command)}"
            if wrong := in_order((code, printed), {0, 2, *codes}):
                trial.wrong.append(f"{what}: {wrong}")
            elif code == 0 and _plain(printed, folder) != _plain(undisturbed[1], trial.undisturbed):
                trial.wrong.append(f"{what}: accepted, and says {printed[-500:]}")


def _plain(printed: str, folder: Path) -> str:
    """What a command printed, without its folder and without lines about progress."""
    lines = printed.replace(str(folder), "FOLDER").splitlines()
    return "\n".join(line for line in lines if " s left" not in line)


EXPERIMENTS: dict[str, Callable[[Trial, str, int], None]] = {
    **dict.fromkeys(FAULTS, at_every_write),
    "small-files": small_files,
    "two-at-once": two_at_once,
    "read-only": read_only,
    "damaged": damaged,
}


if __name__ == "__main__":
    name, home, *wanted = sys.argv[1:]
    os.chdir(home)
    scenarios.load()
    trial = Trial(SCENARIOS[name], Path(home))
    for one in wanted:
        fault, _, most = one.partition("=")
        trial.tried, trial.wrong = 0, []
        EXPERIMENTS[fault](trial, fault, int(most))
        found = {"fault": fault, "events": trial.events, "tried": trial.tried}
        print(json.dumps(found | {"wrong": trial.wrong}), flush=True)
