"""Processes of Ray that tests kill."""

import os
import time
from collections.abc import Iterator
from pathlib import Path


def a_ray_worker(driver: int) -> int:
    """The process id of a worker that is at a task of this driver; waits for one."""
    for _ in range(6000):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                title = Path("/proc", name, "cmdline").read_bytes()
                if title.startswith(b"ray::_on_a_node") and driver in _ancestors(int(name)):
                    return int(name)
            except OSError:  # it has ended
                continue
        time.sleep(0.05)
    raise AssertionError("no Ray worker is at a task")


def descendants(process: int) -> list[int]:
    """The process ids of the children of a process, of their children, and so on."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if process in _ancestors(int(name)):
                found.append(int(name))
        except OSError:
            continue
    return found


def all_end(processes: list[int]) -> bool:
    """Whether all of these processes end within a minute, or have; one that is not waited for has.

    When its driver was killed, Ray ends its processes itself, a moment later.
    """
    left = processes
    for _ in range(600):
        left = [one for one in left if _runs(one)]
        if not left:
            return True
        time.sleep(0.1)
    return False


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
        yield process
