"""How the threads of numerical libraries wait, and how many cores there are to share.

PyTorch computes with OpenMP threads. Between two operations they spin by default: each keeps its
core busy to be ready a little earlier. Where several processes share a machine, threads that spin
take the cores from threads that work, and everything slows down many times. OpenMP reads its
settings when its library is loaded, so they must be set before torch is imported; this module
therefore imports no torch.
"""

import os

PASSIVE: dict[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""The environment under which threads sleep while they wait."""


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has set how they wait.

    Works only before torch is imported. The processes that this one starts inherit it.

    >>> wait_passively()
    >>> any(name in os.environ for name in PASSIVE)
    True
    """
    if not any(name in os.environ for name in PASSIVE):
        os.environ.update(PASSIVE)


def waits_passively() -> bool:
    """Whether the environment tells OpenMP's threads to sleep while they wait.

    >>> os.environ.update(PASSIVE)
    >>> waits_passively()
    True
    """
    if (spin_count := os.environ.get("GOMP_SPINCOUNT")) is not None:
        return spin_count.strip() == "0"
    return os.environ.get("OMP_WAIT_POLICY", "").strip().upper() == "PASSIVE"


def cores() -> int:
    """The number of cores that this process may use, at least 1.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
