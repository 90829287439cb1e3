"""A table and a campaign end as if undisturbed, however they were killed and wherever they ran."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from importlib import import_module
from pathlib import Path
from benchmarks import results
results.FOLDER = Path(sys.argv.pop(1))
import_module(f"benchmarks.{sys.argv.pop(1)}.__main__").main()
"""


@dataclass(frozen=True)
class Study:
    """A command, and what it leaves."""

    module: str
    flags: tuple[str, ...]

    def command(self, folder: Path, *more: str) -> list[str]:
        """Its words, for results and whatever else in `folder`."""
        place = ("--work" if self.module == "tables" else "--out", str(folder / "work"))
        words = (str(folder / "results"), self.module, *self.flags, *place, *more)
        return [sys.executable, "-c", COMMAND, *words, "--scale", "smoke", "--device", "cpu"]

    def outcome(self, folder: Path) -> Any:
        """What was measured."""
        if self.module == "tables":
            (file,) = (folder / "results").glob("*.json")
            return json.loads(file.read_text())["entries"]
        return [json.loads(file.read_text())["score"] for file in (folder / "work").glob("*.json")]


TABLE = Study("tables", ("ablation", "--only", "loss*"))
CAMPAIGN = Study("campaign", ("--only", "digits-ipc1-dm-seed0"))
# One thread each, so that all ways of working add up in the same order.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def finish(study: Study, folder: Path, *flags: str) -> Any:
    """What a study has measured, worked on until it ends."""
    command = study.command(folder, *flags)
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return study.outcome(folder)


def killed(study: Study, folder: Path, seconds: float, *flags: str) -> bool:
    """Begin a study and kill it after so long; whether it was still at it."""
    with subprocess.Popen(
        study.command(folder, *flags),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as begun:
        try:
            begun.wait(seconds)
        except subprocess.TimeoutExpired:
            begun.kill()
        return begun.wait() == -signal.SIGKILL


@pytest.fixture(scope="module", params=[TABLE, CAMPAIGN], ids=["table", "campaign"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, Any, float]:
    """A study, what it measures undisturbed in one process, and the seconds that takes."""
    began, folder = time.monotonic(), tmp_path_factory.mktemp("undisturbed")
    return request.param, finish(request.param, folder), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("undisturbed", "workers"),
    [pytest.param(TABLE, "2", id="table-2"), pytest.param(CAMPAIGN, "0", id="campaign-0")],
    indirect=["undisturbed"],
)
def test_killed_at_random_moments_it_ends_as_if_undisturbed(
    tmp_path: Path, undisturbed: tuple[Study, Any, float], workers: str
) -> None:
    study, outcome, seconds = undisturbed
    moments, flags = random.Random(int(workers)), ("--workers", workers)
    kills = [killed(study, tmp_path, seconds * moments.uniform(0.2, 0.8), *flags) for _ in range(2)]
    assert any(kills)
    assert finish(study, tmp_path, *flags) == outcome


@pytest.mark.slow
def test_on_a_cluster_it_measures_the_same(
    tmp_path: Path, undisturbed: tuple[Study, Any, float]
) -> None:
    pytest.importorskip("ray")
    study, outcome, _ = undisturbed
    assert finish(study, tmp_path, "--cluster", "local") == outcome
