"""What faults are injected into: small commands, how each goes on, and what it must come to."""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The checkout that this file is in."""
sys.path.insert(0, str(ROOT))

DIGITS = ["--dataset", "digits"]
SMALL = [*DIGITS, "--network", "convnet-d1-w8"]
ONE = ["--network", "mlp", "--repeats", "2", "--epochs", "1"]
Reads = list[tuple[list[str], set[int]]]


@dataclass(frozen=True)
class Scenario:
    """A command that works in a folder."""

    command: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]
    """What the finished folder holds that must not depend on any fault."""
    before: Callable[[Path], list[str]] | None = None
    """A command that makes what this one starts from."""
    reads: Callable[[Path], Reads] = lambda folder: []
    """Commands that look at the finished folder, and how they may end where it is read-only."""
    ends: frozenset[int] = frozenset({0})
    """How the command may end in a finished folder."""


def load(*packages: str) -> None:
    """Import what the commands need and read the data, once for all forked processes."""
    import torch

    from condense import load_dataset

    for package in packages:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    load_dataset("digits")
    os.environ["COLUMNS"] = "200"


def main() -> None:
    """The command line."""
    import cli

    cli.main()


def _bytes(*patterns: str) -> Callable[[Path], Any]:
    """The content of the files in a folder that fit one of the patterns."""

    def content(folder: Path) -> Any:
        found = {path for pattern in patterns for path in folder.glob(pattern)}
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}

    return content


def _run(folder: Path) -> Any:
    """The set and the picture of a run, and whether the run is finished."""
    finished = json.loads((folder / "run.json").read_text())["progress"]["finished"]
    return _bytes("set.safetensors", "grid.png", "start.safetensors")(folder), finished


def _accuracies(folder: Path) -> Any:
    from condense import CondensedSet
    from condense.runs.evaluations import rows

    return [row.to_json() for row in rows(folder, CondensedSet.load(folder))]


def _condense(*flags: str) -> Scenario:
    tiny = [*SMALL, "--ipc", "1", "--steps", "2", "--checkpoint-every", "1", "--real-batch", "4"]
    return Scenario(
        command=lambda folder: ["condense", *tiny, *flags, "--out", str(folder)],
        outcome=_run,
        reads=lambda folder: [
            (["condense", "--resume", str(folder)], {0}),
            (["show", str(folder), "--json"], {0}),
        ],
    )


def _select(folder: Path) -> list[str]:
    return ["select", *DIGITS, "--ipc", "1", "--out", str(folder)]


def _experts(folder: Path) -> list[str]:
    amount = ["--preprocess", "standard", "--count", "2", "--passes", "1"]
    return ["experts", *SMALL, *amount, "--out", str(folder)]


def _search(workers: str) -> Scenario:
    space = ["--resolution", "16", "--space", "convnet720", "--sample", "2", "--seeds", "1"]
    amount = ["--held-out", "100", "--epochs", "1", "--proxy", "random:1", "--workers", workers]
    return Scenario(
        command=lambda folder: ["nas", *DIGITS, *space, *amount, "--out", str(folder)],
        outcome=_bytes("ranking.csv", "ranking.json"),
        reads=lambda folder: [(["nas", "show", str(folder)], {0})],
    )


PACKAGES = {"continual": "continual", "nas": "nas", "workers": "nas"}
"""What a scenario needs beside `condense`, if anything."""
SCENARIOS = {
    "condense": _condense("--recipe", "datadam", "--set", "lr=0.5"),
    "pooled": _condense("--recipe", "best", "--set", "pool=1", "--set", "pool_steps=2"),
    "dm": _condense("--method", "dm"),
    "dc": _condense("--method", "dc", "--set", "outer_loops=1", "--set", "inner_loops=1"),
    "kip": _condense("--method", "kip"),
    "select": Scenario(
        command=_select,
        outcome=_bytes("*.safetensors", "*.png", "*.json"),
        reads=lambda folder: [(["show", str(folder)], {0})],
        ends=frozenset({0, 2}),  # it says that the folder holds the set
    ),
    "evaluate": Scenario(
        before=_select,
        command=lambda folder: ["evaluate", str(folder), *ONE],
        outcome=_accuracies,
        reads=lambda folder: [
            (["show", str(folder), "--json"], {0}),
            (["evaluate", str(folder), *ONE], {2}),
        ],
    ),
    "experts": Scenario(
        command=_experts,
        outcome=_bytes("expert*"),
        reads=lambda folder: [(_experts(folder), {2})],
    ),
    "continual": Scenario(
        command=lambda folder: [
            *("continual", *SMALL, "--steps", "2", "--ipc", "1", "--orders", "1", "--repeats", "1"),
            *("--epochs", "1", "--method", "random", "--method", "dm:real_batch=4"),
            *("--condense-steps", "1", "--out", str(folder)),
        ],
        outcome=lambda folder: json.loads((folder / "summary.json").read_text())["methods"],
        reads=lambda folder: [(["continual", "--resume", str(folder)], {2})],
    ),
    "nas": _search("0"),
    "workers": _search("1"),
}
