"""Result files: every figure beside the command, versions and machine that made it."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from condense.progress import duration
from condense.report import page
from condense.report.blocks import Command, Facts, Report, Section
from condense.version import version
from condense.writing import write_bytes, write_json

FOLDER = Path(__file__).parent / "results"


def conditions() -> dict[str, Any]:
    """What a figure was obtained with: command, versions, machine, date."""
    return {
        "command": command(),
        "condensekit": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }


def command() -> str:
    """The command line that runs, with `DIR` for the folders of this machine."""
    module, arguments = Path(sys.argv[0]), list(sys.argv[1:])
    if module.name == "__main__.py":
        module = module.parent  # a package
    for place, argument in enumerate(arguments[:-1]):
        if argument in (
            "--data-dir",
            "--out",
            "--reference",
            "--set",
            "--json",
            "--work",
            "--pools",
        ):
            arguments[place + 1] = "DIR"
    name = (
        ["-m", f"benchmarks.{module.stem}"] if module.parent.name == "benchmarks" else [module.name]
    )
    return shlex.join(["python", *name, *arguments])


def write(name: str, document: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """Write `results/NAME.json` and the same for people as `results/NAME.md`.

    The conditions are added to the document, unless it has those of an earlier moment. Returns the
    document.
    """
    document = {"conditions": conditions(), **document}
    write_json(FOLDER / f"{name}.json", document)
    given = document["conditions"]
    footer = [
        "",
        f"`{given['command']}`",
        "",
        f"{given['device']}, {given['threads']} threads, torch {given['torch']}, Python "
        f"{given['python']}, {given['date']}.",
    ]
    write_bytes(FOLDER / f"{name}.md", "\n".join([*lines, *footer, ""]).encode())
    return document


def write_page(path: Path, title: str, sections: Sequence[Section], document: Any) -> None:
    """Write a result as a page: its sections, and the conditions of its document below them."""
    facts = dict(document["conditions"])
    again = Command(facts.pop("command"))
    if "seconds" in document:
        facts = {"the networks took": duration(document["seconds"]), **facts}
    how = Section("How it was measured", again, Facts(facts))
    page.write(path, Report(title, [*sections, how]))


def processor() -> str:
    """What the system calls its processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
