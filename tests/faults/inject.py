"""Inject faults into commands: `python inject.py SCENARIO FOLDER FAULT=MOST ...`.

Up to MOST faults of each kind are tried, each in a forked process of its own. For each kind a line
of JSON says how many there were, and what did not end as promised.

The promise: nothing that is finished is lost, nothing is half-written, and who does what the one
line says ends with the same files as the undisturbed run.
"""

import ctypes
import errno
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scenarios
from process import Attempt, in_order, start, to_the_end
from scenarios import SCENARIOS, Scenario
from shim import Clock, Failing, Shim


class Trial:
    """A scenario in a folder of its own, to be disturbed again and again."""

    def __init__(self, scenario: Scenario, home: Path) -> None:
        self.scenario, self.home = scenario, home
        home.mkdir(exist_ok=True)
        self.clear()
        self.undisturbed = home / "undisturbed"
        self.begin(self.undisturbed)
        self.events, self.seconds = self.measure(self.undisturbed, Shim())
        self.expected = scenario.outcome(self.undisturbed)

    def measure(self, folder: Path, shim: Shim | Failing) -> tuple[int, float]:
        """Run undisturbed; returns how often something might have happened, and the seconds."""
        counted = self.home / "count"

        def count() -> None:
            shim.install()
            end = os._exit
            os._exit = lambda code: (counted.write_text(str(shim.count)), end(code))  # type: ignore

        attempt = start(self.command(folder), count)()
        assert attempt.code == 0, attempt
        return int(counted.read_text()), attempt.seconds

    def clear(self) -> None:
        """Forget what was found so far."""
        self.wrong: list[str] = []
        self.ends = Counter[int]()
        self.longest, self.work, self.memory = 0.0, 0.0, 0

    def found(self) -> dict[str, Any]:
        """How many disturbed commands there were, how they ended, and what was wrong."""
        return {
            "tried": self.ends.total(),
            "ends": dict(self.ends),
            "seconds at most": round(self.longest, 1),
            "CPU seconds at most": round(self.work, 1),
            "MB at most": self.memory // 10**6,
            "wrong": self.wrong,
        }

    def note(self, what: str, attempt: Attempt, codes: set[int]) -> bool:
        """Count a disturbed command, and note what is wrong with its end; whether all is well."""
        self.ends[attempt.code] += 1
        self.longest = max(self.longest, attempt.seconds)
        self.work = max(self.work, attempt.work)
        self.memory = max(self.memory, attempt.memory)
        if wrong := in_order(attempt, codes):
            self.wrong.append(f"{what}: {wrong}")
        return not wrong

    def begin(self, folder: Path) -> None:
        """Make what the scenario starts from."""
        if self.scenario.before:
            attempt = start(self.scenario.before(folder))()
            assert attempt.code == 0, attempt

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
        self.note(what, attempt, codes)
        advice = re.search(r"go on with `condensekit (\w+)", attempt.printed)
        if attempt.code == 130 and advice and advice[1] != self.command(folder)[0]:
            self.wrong.append(f"{what}: {attempt.printed} names another command")
        if not folder.exists() and self.scenario.before:
            self.begin(folder)
        end = to_the_end(self.command(folder))
        if "Traceback" in end.printed or end.code not in self.scenario.ends:
            self.wrong.append(f"{what}, then: exit code {end.code}: {end.printed[-1500:]}")
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


def at_any_moment(trial: Trial, fault: str, most: int) -> None:
    """SIGKILL from outside, at `most` random moments."""
    choose = random.Random(fault)
    for _ in range(most):
        folder, moment = trial.fresh(), choose.uniform(0, trial.seconds)
        attempt = start(trial.command(folder), kill_after=moment)()
        trial.check(f"killed after {moment:.4f} s", attempt, {-signal.SIGKILL, 0}, folder)


def failing_calls(trial: Trial, fault: str, most: int) -> None:
    """One call to the system fails, once, at up to `most` of the moments at which it may."""
    choose = random.Random(fault)
    calls = range(1, trial.measure(trial.fresh(), Failing())[0] + 1)
    for at in sorted(choose.sample(calls, min(most, len(calls)))):
        error = choose.choice([errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.ESTALE])
        folder = trial.fresh()
        attempt = start(trial.command(folder), Failing(at, error).install)()
        what = f"{errno.errorcode[error]} at call {at} of {len(calls)}"
        trial.check(what, attempt, {2, 0}, folder)


def jumping_clock(trial: Trial, fault: str, most: int) -> None:
    """The date jumps by ten years all the time, and nothing depends on it."""
    for seed in range(most):
        folder = trial.fresh()
        attempt = start(trial.command(folder), Clock(seed).install)()
        trial.check(f"the clock {seed}", attempt, {0}, folder)


def little_memory(trial: Trial, fault: str, most: int) -> None:
    """The process may take only some bytes of memory more than it has at its start."""
    mib = [0, *(2 ** (half / 2) for half in range(-4, 16))]
    for more in mib[:: max(1, len(mib) // most)]:
        folder = trial.fresh()

        def limit(more: float = more) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            bound = pages * resource.getpagesize() + int(more * 2**20)
            resource.setrlimit(resource.RLIMIT_AS, (bound, bound))

        attempt = start(trial.command(folder), limit)()
        trial.check(f"{more:.2f} MiB of memory", attempt, {2, 0}, folder)


def dying_workers(trial: Trial, fault: str, most: int) -> None:
    """SIGKILL to a worker process at a random moment: another does its task."""
    choose = random.Random(fault)

    def kill(moment: float) -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        time.sleep(moment)
        os.kill(workers[0].pid or 0, signal.SIGKILL)

    for _ in range(most):
        folder, moment = trial.fresh(), choose.uniform(0, trial.seconds)
        thread = threading.Thread(target=kill, args=(moment,), daemon=True)
        attempt = start(trial.command(folder), thread.start)()
        trial.check(f"a worker killed after {moment:.2f} s", attempt, {0}, folder)


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
        if 0 not in (first.code, second.code):
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
        attempt = start(command, _without_privileges)()
        trial.note(f"{' '.join(command)}, read-only", attempt, codes)
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
            attempt = start(here)()
            what = f"{file.name} damaged at {place}, {' '.join(command)}"
            said = _plain(attempt.printed, folder)
            if not trial.note(what, attempt, {0, 2, *codes}) or attempt.code != 0:
                continue
            if said != _plain(undisturbed.printed, trial.undisturbed):
                trial.wrong.append(f"{what}: accepted, and says {attempt.printed[-500:]}")


def _plain(printed: str, folder: Path) -> str:
    """What a command printed, without its folder and without lines about progress."""
    lines = printed.replace(str(folder), "FOLDER").splitlines()
    return "\n".join(line for line in lines if " so far" not in line)


EXPERIMENTS: dict[str, Callable[[Trial, str, int], None]] = {
    **dict.fromkeys(FAULTS, at_every_write),
    "sudden": at_any_moment,
    "call": failing_calls,
    "clock": jumping_clock,
    "memory": little_memory,
    "worker": dying_workers,
    "small-files": small_files,
    "two-at-once": two_at_once,
    "read-only": read_only,
    "damaged": damaged,
}


def inject(trial: Trial, fault: str, most: int) -> dict[str, Any]:
    """Try up to `most` faults of a kind; returns how many there were, and what went wrong."""
    trial.clear()
    EXPERIMENTS[fault](trial, fault, most)
    return {"fault": fault, "events": trial.events} | trial.found()


if __name__ == "__main__":
    name, home, *wanted = sys.argv[1:]
    os.chdir(home)
    scenarios.load("condense", *filter(None, [scenarios.PACKAGES.get(name)]))
    trial = Trial(SCENARIOS[name], Path(home))
    for one in wanted:
        fault, _, most = one.partition("=")
        print(json.dumps(inject(trial, fault, int(most))), flush=True)
