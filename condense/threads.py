"""How many cores this process may use, and how its threads wait.

By default, OpenMP's threads spin while they wait for work. On an idle machine, spinning saves a
little time. Beside one other busy process, however, a step takes sixteen times as long, because
each parallel loop waits for a thread that has no core. OpenMP reads this setting when its library
is loaded, so it must be set before torch is imported.
"""

import os
from collections.abc import Mapping

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""The variables that make waiting threads sleep: that of OpenMP, and that of GNU's library."""


def passive_unless_set(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add to `environment` so that threads sleep while they wait.

    There are none if the user has already set one of them.

    >>> passive_unless_set({})
    {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '0'}
    >>> passive_unless_set({"OMP_WAIT_POLICY": "ACTIVE"})
    {}
    """
    return {} if PASSIVE.keys() & environment.keys() else dict(PASSIVE)


def wait_passively() -> None:
    """Let the threads of this process sleep while they wait, unless the user has chosen.

    It has an effect only before torch is imported. Processes started from this one inherit it.

    >>> wait_passively()
    >>> any(name in os.environ for name in PASSIVE)
    True
    """
    os.environ.update(passive_unless_set())


def waits_passively(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `environment` tells threads to sleep while they wait.

    >>> waits_passively(PASSIVE), waits_passively({})
    (True, False)
    """
    if (spins := environment.get("GOMP_SPINCOUNT")) is not None:
        return spins.strip() == PASSIVE["GOMP_SPINCOUNT"]
    return environment.get("OMP_WAIT_POLICY", "").strip().upper() == "PASSIVE"


def cores() -> int:
    """The number of cores that this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
