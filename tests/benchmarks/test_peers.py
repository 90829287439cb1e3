"""Peers are timed on the same work, and their ratios are to ours."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import peers, results
from condense.networks.build import build


def test_peers_are_timed_on_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    small = build("convnet-d1-w4", (3, 32, 32), peers.CLASSES)
    monkeypatch.setattr(peers, "convnet", lambda: small)
    flags = ["--passes", "1", "--tested", "20", "--turns", "2"]
    result = CliRunner().invoke(peers.main, flags, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    times = json.loads((tmp_path / "peers_cpu.json").read_text())["seconds_of_turns"]
    assert {"ours", "plain"} <= set(times)
    assert all(len(taken) == 2 for taken in times.values())


def test_the_ratio_is_to_ours() -> None:
    ours, plain = peers.rows({"ours": [1.0, 1.0], "plain": [3.0, 3.0]})
    assert ours == ["ours", "1.00", ""]
    assert plain == ["plain", "3.00", "3.00 (3.00 to 3.00)"]
