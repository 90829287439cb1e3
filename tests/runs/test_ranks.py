"""Several processes on one run.

The single process's file, and clear words when they do not fit together.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from condense.errors import UserError
from condense.runs.ranks import Ranks
from condense.study.record import differences

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FLAGS = [
    "--dataset", "digits", "--ipc", "2", "--network", "convnet-d2-w8", "--real-batch", "8",
    "--recipe", "datadam",
    "--steps", "30", "--checkpoint-every", "10", "--chunk", "2",
]  # fmt: skip
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # rounding depends on the number of threads


def torchrun(ranks: int, *arguments: str | Path) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
        "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", str(ROOT / "cli.py"), *map(str, arguments),
    ]  # fmt: skip


def start_ranks(arguments: list[list[str]]) -> list[subprocess.Popen]:
    """Ranks started one by one, so that each may have arguments of its own, or be killed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {
        **ONE_THREAD,
        "WORLD_SIZE": str(len(arguments)),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *own],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(arguments)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("alone")
    command = [sys.executable, str(ROOT / "cli.py"), "condense", *FLAGS, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, env=ONE_THREAD)
    return (out / "set.safetensors").read_bytes()


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_file_is_that_of_a_single_process(tmp_path: Path, alone: bytes, ranks: int) -> None:
    done = subprocess.run(
        torchrun(ranks, "condense", *FLAGS, "--out", tmp_path),
        capture_output=True,
        text=True,
        env=ONE_THREAD,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set.safetensors").read_bytes() == alone


def test_a_rank_with_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    flags = ["condense", *FLAGS, "--out", str(tmp_path / "run")]
    processes = start_ranks([flags, [*flags, "--seed", "1"]])
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "rank 1 was started with other settings than rank 0: seed 1 there, 0 here" in errors[0]
    assert not (tmp_path / "run" / "run.json").exists()


def test_after_the_death_of_a_rank_each_goes_on_from_its_own_checkpoints(
    tmp_path: Path, alone: bytes
) -> None:
    flags = ["condense", *FLAGS, "--out", str(tmp_path)]
    processes = start_ranks([flags, flags])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoints/rank-1-of-2/step-*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    processes[1].kill()
    processes[0].communicate(timeout=120)  # it misses its peer at the end
    processes[1].communicate(timeout=120)
    assert not (tmp_path / "set.safetensors").exists()
    resumed = start_ranks([["condense", "--resume", str(tmp_path)]] * 2)
    errors = [process.communicate(timeout=120)[1] for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], errors
    assert (tmp_path / "set.safetensors").read_bytes() == alone


def test_differences_name_nested_settings_and_both_values() -> None:
    here, there = (
        {"recipe": {"lr": 1.0, "steps": 5}, "seed": 0},
        {"recipe": {"lr": 2.0, "steps": 5}, "seed": 0},
    )
    assert differences(here, there) == "recipe.lr 2.0 there, 1.0 here"
    assert differences(here, here) == ""


@pytest.mark.parametrize("size", ["abc", "", "-3", "0", "9" * 30])
def test_an_environment_that_torchrun_would_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match=r"WORLD_SIZE is .* in the environment"):
        Ranks.join()


def test_ranks_that_nobody_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start them by torchrun, or unset WORLD_SIZE"):
        Ranks.join()
