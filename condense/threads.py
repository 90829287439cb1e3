"""How many cores this process may use, and how its threads wait.

Threads of OpenMP spin while they wait for work, unless they are told to sleep. Alone on a machine, spinning saves a
little; beside one busy process a step takes sixteen times as long, since each parallel loop waits for a thread that
has no core. OpenMP reads how to wait when its library loads, so this has to be said before torch is imported.
"""

import os
from collections.abc import Mapping

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""What tells threads to sleep while they wait: the standard's variable, and that of GNU's library."""


def passive_unless_set(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What has to be added to `environment` so that threads wait passively; nothing where the user has chosen.

    >>> passive_unless_set({})
    {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '0'}
    >>> passive_unless_set({"OMP_WAIT_POLICY": "ACTIVE"})
    {}
    """
    return {} if PASSIVE.keys() & environment.keys() else dict(PASSIVE)


def wait_passively() -> None:
    """Tell the threads of this process to sleep while they wait. It has an effect before torch is imported only."""
    os.environ.update(passive_unless_set())


def cores() -> int:
    """The number of cores this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
