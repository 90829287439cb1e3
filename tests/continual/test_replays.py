"""The benchmark of replay: it runs, and stands beside Avalanche's own and the floor."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import replays, results, trainings


def test_replay_stands_beside_avalanches_own_and_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(replays, "NETWORK", trainings.named("convnet-d1-w4"))
    assert len(replays.noise(3).train) == 3 * replays.BATCH + 5 * replays.IPC
    done = CliRunner().invoke(replays.main, ["--steps", "3", "--turns", "2"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "replays_cpu.json").read_text())["works"].values()
    assert 0 < found["ratio_ci95"][0] <= found["ratio"] <= found["ratio_ci95"][1]
    assert found["floor_s"] > 0
