"""`condensekit doctor`: what this installation and this machine are, and how fast."""

import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import click

from condense.command.shared import Printed, show_facts
from condense.errors import UserError
from condense.options import Command, Heading, Part
from condense.progress import duration, notice
from condense.threads import PASSIVE, cores, waits_passively
from condense.version import version

_LIBRARIES = ("torch", "torchvision", "kornia", "avalanche-lib", "nas-bench-201", "ray")
_COMPILERS = ("g++", "clang++", "c++")
_ADVICE = (
    "threads that spin while they wait slow down everything on a shared machine: in your own "
    f"programs set {' and '.join(f'{name}={value}' for name, value in PASSIVE.items())} "
    "before torch is imported"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined(Printed):
    """What is looked at.

    >>> Examined().speed
    True
    """

    data_dir: Path | None = None
    """Folder in which the named datasets are looked for; ./data unless given."""
    speed: bool = True
    """Train a network for ten seconds, to tell how long a standard run takes here."""


@click.command(cls=Command, parts={"examined": Part(kind=Examined, heading=Heading.OUTPUT)})
def doctor(examined: Examined) -> None:
    """Say what this installation and this machine are, which data is here, and how long runs take.

    The times are for the default recipe with 10 images per class of CIFAR-10, and an evaluation
    with the defaults, before compilation, which makes them two to three times shorter.
    `condensekit condense --dry-run` measures your own run.
    """
    facts = _software() | _machine() | {"data": _data(examined.data_dir)}
    if examined.speed:
        with notice("measuring the speed for ten seconds"):
            facts |= _speed()
    show_facts(facts | {"advice": _ADVICE}, examined.json)


def _software() -> dict[str, Any]:
    """Versions of what is installed."""
    facts: dict[str, Any] = {"condensekit": version(), "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            facts[name] = installed(name)
    return facts


def _machine() -> dict[str, Any]:
    """The device, the cores and how busy they are, the compiler, and how threads wait."""
    import torch

    from condense.device import pick_device

    device = pick_device("auto").type
    facts = {
        "device": f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device,
        "cores": cores(),
        "torch threads": torch.get_num_threads(),
        "load": _load(),
        "compiler": _compiler(),
    }
    facts |= {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", *PASSIVE)}
    return facts | {"threads wait passively": waits_passively()}


def _load() -> str:
    """The average load of the last minute, and what it means."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    load = os.getloadavg()[0]
    return f"{load:.1f}" + (", busy: runs take longer than usual" if load > cores() else "")


def _compiler() -> str:
    """The C++ compiler that `torch.compile` finds on a CPU."""
    named = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [named] if named else _COMPILERS)), None)
    return found or "none: networks run uncompiled, two to three times slower; install g++"


def _data(data_dir: Path | None) -> list[str]:
    """The named datasets whose files are there and whole."""
    from condense.data.catalogue import NAMED, verify

    found = []
    for name in NAMED:
        with suppress(UserError), notice(f"looking for {name}"):
            verify(name, data_dir)
            found.append(name)
    return found


def _speed() -> dict[str, Any]:
    """Images a second in training, and what follows from it for a standard run."""
    from condense.runs.standard import images_a_second, work

    rate = images_a_second()
    condensing, evaluating = (images / rate for images in work())
    return {
        "images a second": round(rate),
        "a standard run": f"at most about {duration(condensing)}",
        "its evaluation": f"at most about {duration(evaluating)}",
    }
