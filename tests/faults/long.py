"""The long run of `make faults`: every fault in every scenario, and many random inputs.

It is made of parts, and the figures of each are a line of JSON in a file. Started again with the
same file, it goes on with the parts that are missing: `python long.py FILE [SHARE]`. SHARE is the
share of all faults and inputs to try; default 1.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import scenarios
from inject import Trial, inject

FAULTS = [
    {"kill": 100, "sudden": 20},
    {"int": 20, "term": 20, "full": 30, "vanish": 20, "small-files": 10},
    {"two-at-once": 3, "read-only": 1, "damaged": 200},
    {"call": 60, "clock": 2, "memory": 20},
]
"""What happens to every scenario, in this order: how often each fault is tried, at most."""
WORKERS = 5
"""Workers that die. Beginning one takes so long that nothing else happens to this scenario."""
INPUTS, ROUNDS = 1000, 7
"""Random inputs to each test in a round, and rounds, each with other inputs."""
SECONDS = 60
"""How long atheris works on each reader."""


def parts() -> Iterator[tuple[str, str, int]]:
    """The parts of the run: a scenario or `fuzz` or `guided`, what happens to it, and how often."""
    for number, faults in enumerate(FAULTS):
        for name in sorted(scenarios.SCENARIOS.keys() - {"workers"}):
            yield from ((name, fault, most) for fault, most in faults.items())
        yield from (("fuzz", str(turn), INPUTS) for turn in range(number, ROUNDS, len(FAULTS)))
    yield "guided", "readers", SECONDS
    yield "workers", "worker", WORKERS


def fuzz(turn: str, inputs: int) -> dict[str, Any]:
    """Give this many random inputs to each reader, each record and the command line.

    Readers of binary formats get whole files that were damaged, too.
    """
    tests = [Path(__file__).with_name(f"test_{name}.py") for name in ("fuzz", "damage")]
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, *options, f"--hypothesis-seed={turn}"],
        env={**os.environ, "INPUTS": str(inputs)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    tried = [int(number) for number in re.findall(r"- (\d+) passing, \d+ failing", done.stdout)]
    return {"tried": sum(tried), "wrong": [done.stdout[-9000:]] if done.returncode else []}


def guided(seconds: int) -> dict[str, Any]:
    """Let atheris look for bytes that a reader does not take, if it is installed."""
    if find_spec("atheris") is None:
        return {"tried": 0, "wrong": [], "skipped": "atheris is not installed"}
    command = [sys.executable, Path(__file__).with_name("guided.py"), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        "tried": sum(one["tried"] for one in found),
        "MB at most": max(one["MB at most"] for one in found),
        "wrong": [text for one in found for text in one["wrong"]],
    }


def main(file: Path, share: float = 1.0) -> int:
    """Do the parts that are missing in `file`; returns the exit code."""
    scenarios.load("condense", "continual", "nas")
    trials: dict[str, Trial] = {}
    file.touch()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        for name, fault, most in parts():
            if [name, fault] in [one["part"] for one in read(file)]:
                continue
            began, most = time.monotonic(), max(1, round(share * most))
            if name == "fuzz":
                found = fuzz(fault, most)
            elif name == "guided":
                found = guided(most)
            else:
                if name not in trials:
                    trials[name] = Trial(scenarios.SCENARIOS[name], Path(home, name))
                found = inject(trials[name], fault, most)
            found |= {"part": [name, fault], "took": round(time.monotonic() - began)}
            with file.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
    return tell(read(file))


def read(file: Path) -> list[dict[str, Any]]:
    """What was found so far."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def tell(found: list[dict[str, Any]]) -> int:
    """Print what went wrong, and how often each fault was tried; returns the exit code."""
    tried, wrong = Counter[str](), Counter[str]()
    for one in found:
        kind = one["part"][0] if one["part"][0] in ("fuzz", "guided") else one["part"][1]
        tried[kind] += one["tried"]
        wrong[kind] += len(one["wrong"])
        for text in one["wrong"]:
            print(" ".join(one["part"]), text, sep=": ")
        if "skipped" in one:
            print(f"{kind}: skipped, since {one['skipped']}")
    for kind in tried:
        print(f"{kind}: {tried[kind]:,} tried, {wrong[kind]:,} wrong")
    for figure in ("seconds at most", "CPU seconds at most", "MB at most"):
        print(f"{figure}: {max((one.get(figure, 0) for one in found), default=0):,}")
    return 1 if wrong.total() else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *map(float, sys.argv[2:3])))
