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
FEW = {
    "condense": "kill=6 int=1 term=2 full=3 vanish=2 small-files=3 read-only=1 damaged=8 "
    "call=5 clock=1 sudden=1",
    "select": "kill=4 full=2 read-only=1 memory=7",
    "evaluate": "kill=3 term=1 full=1 small-files=2 read-only=1 damaged=4",
    "continual": "kill=3 term=2 vanish=4 small-files=3 two-at-once=1 read-only=1 call=3",
    "nas": "kill=3 int=1 small-files=2 read-only=1 damaged=5 call=3",
}
"""The faults of the suite, by the command that they happen to."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FEW))
def test_a_disturbed_command_ends_in_order_and_comes_to_the_same_end(
    name: str, tmp_path: Path
) -> None:
    faults = FEW[name].split()
    done = subprocess.run(
        [sys.executable, INJECT, name, tmp_path, *faults],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["fault"] for one in found] == [one.partition("=")[0] for one in faults], done.stderr
    assert all(one["tried"] for one in found)
    assert not [wrong for one in found for wrong in one["wrong"]]
