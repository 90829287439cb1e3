"""Killed, stopped, without space, in vanished, read-only and damaged folders, and side by side.

Whatever happens to a command, what it finished is kept, and who does what its one line says comes
to the same end. `make faults` tries many more faults than the suite does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

INJECT = Path(__file__).with_name("inject.py")
LONG = os.environ.get("FAULTS") == "long"
MANY = [
    *("kill=200", "int=20", "term=20", "full=30", "vanish=20"),
    *("small-files=10", "two-at-once=3", "read-only=1", "damaged=200"),
]
"""The faults of the long run, for every command."""
FEW = {
    "condense": "kill=6 int=1 term=2 full=3 vanish=2 small-files=3 read-only=1 damaged=8",
    "select": "kill=4 full=2 read-only=1",
    "evaluate": "kill=3 term=1 full=1 small-files=2 read-only=1 damaged=4",
    "continual": "kill=3 term=2 vanish=1 small-files=3 two-at-once=1 read-only=1",
    "nas": "kill=3 int=1 small-files=2 read-only=1 damaged=5",
}
"""The faults of the suite, by the command that they happen to."""
EVERY = [
    "condense",
    "pooled",
    "dm",
    "dc",
    "kip",
    "select",
    "evaluate",
    "experts",
    "continual",
    "nas",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY if LONG else sorted(FEW))
def test_a_disturbed_command_ends_in_order_and_comes_to_the_same_end(
    name: str, tmp_path: Path
) -> None:
    faults = MANY if LONG else FEW[name].split()
    done = subprocess.run(
        [sys.executable, INJECT, name, tmp_path, *faults],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["fault"] for one in found] == [one.partition("=")[0] for one in faults], done.stderr
    print("\n".join(f"{name}: {one['fault']}, {one['tried']} tried" for one in found))
    assert all(one["tried"] for one in found)
    assert not [wrong for one in found for wrong in one["wrong"]]
