"""The list of what waits for a GPU: its lines are commands that exist, and a call runs one."""

import importlib
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import step

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
STAND_IN = """#!/bin/sh
echo "$@" >> "$SEEN"
echo figures > benchmarks/results/of_a_gpu.json
exit 3
"""


def called(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in ("OUT", "DATA_DIR")}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env=kept | environment,
    )


def lines() -> list[list[str]]:
    return [line.split(": python ")[1].split() for line in called().stdout.splitlines()]


def test_every_line_is_a_command_with_options_that_it_has() -> None:
    assert len(lines()) > 5
    for flag, module, *arguments in lines():
        assert flag == "-m"
        if module == "pytest":
            assert all((ROOT / path).is_file() for path in arguments if path != "-q")
            continue
        where = module if module != "benchmarks.campaign" else f"{module}.__main__"
        importlib.import_module(where).main.make_context(module, arguments)


def test_the_first_four_need_no_data() -> None:
    assert not any("--data-dir" in line for line in lines()[:4])


def test_a_call_runs_one_line_and_copies_what_is_new(tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks"
    (copy / "results").mkdir(parents=True)
    (copy / "results" / "old.json").touch()
    os.utime(copy / "results" / "old.json", (0, 0))
    script = copy / "gpu.sh"
    script.write_bytes(SCRIPT.read_bytes())
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    seen, out = tmp_path / "seen", tmp_path / "out"
    place = {"OUT": str(out), "PYTHON": str(python), "SEEN": str(seen)}
    ended = subprocess.run(["bash", str(script), "2"], env=os.environ | place)
    assert ended.returncode == 3
    assert seen.read_text().split() == lines()[1]
    assert [path.name for path in out.iterdir()] == ["of_a_gpu.json"]


@pytest.mark.parametrize("number", ["0x", "10", "-1", "two"])
def test_a_number_that_no_line_has_is_one_line(number: str, tmp_path: Path) -> None:
    ended = called(number, OUT=str(tmp_path))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(("number", "given"), [("1", {}), ("8", {"OUT": "somewhere"})])
def test_a_folder_that_is_not_given_is_one_line(number: str, given: dict[str, str]) -> None:
    ended = called(number, **given)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("device", "counted"), [("cuda", ["step 0", "step 1"]), ("cpu", ["step 1"])]
)
def test_on_a_gpu_memory_counts_from_before_the_capture(
    device: str, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Loop:
        def step(self, number: int) -> None:
            done.append(f"step {number}")

    monkeypatch.setattr(step, "reset_peak_memory", lambda device: done.clear())
    monkeypatch.setattr(step, "peak_memory", lambda device: len(done))
    assert step.peak_of(Loop(), torch.device(device)) == len(counted)
    assert done == counted
