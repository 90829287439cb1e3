"""The benchmark of searches: it resumes, and tells the regret of each strategy."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import nas_searches, results
from nas.free import BASELINES
from nas.plan import change
from nas.spaces import nasbench201


@pytest.mark.slow
def test_every_strategy_has_its_regret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    scores = dict.fromkeys(BASELINES, 1.0)  # they take seconds a cell
    monkeypatch.setattr("nas.free.scores", lambda *_, **how: scores)
    short = change(nasbench201.REGIME, epochs=1, width=2)
    monkeypatch.setattr(nasbench201, "REGIME", short)
    table = tmp_path / "truth.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", "digits_test"])
        cells = nasbench201.sample(4, 0)
        writer.writerows([at, nasbench201.architecture(at).name, 80 + at / 1e4] for at in cells)
    flags = [
        "--reference",
        table,
        "--dataset",
        "digits",
        "--strategy",
        "random",
        "--seeds",
        2,
        "--workers",
        0,
    ]
    flags += ["--strategy", "free", "--budget", 2, "--at", 1, "--at", 2, "--out", tmp_path / "run"]
    command = list(map(str, flags))
    first = CliRunner().invoke(nas_searches.main, [*command, "--minutes", "1e-4"])
    assert "not all searches are at their end" in first.output
    done = CliRunner().invoke(nas_searches.main, command)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "nas_searches.json").read_text())
    assert [(row["strategy"], row["trainings"]) for row in found["rows"]] == [
        ("random", 1), ("random", 2), ("free", 0),
        ("random, trained in full", 1), ("random, trained in full", 2),
    ]  # fmt: skip
    best = max(cells)
    ends = [row for one in found["searches"] for row in one if row["strategy"] == "free"]
    assert [row["regret"] for row in ends] == pytest.approx(
        [(best - row["index"]) / 1e6 for row in ends]
    )


def test_a_strategy_that_has_named_no_candidate_has_no_regret() -> None:
    asked = nas_searches.Asked(reference="table.csv", strategy=("halving",), at=(1,))
    found = [SimpleNamespace(at=lambda *_: None)]
    row, _ = nas_searches.table(asked, found, np.array([0.5, 0.9]))  # type: ignore[arg-type]
    assert row == ["halving", 1, "", "", "none named yet"]


def test_random_full_trainings_are_expected_as_drawn() -> None:
    truth = np.random.default_rng(0).normal(0.9, 0.01, 50)
    draws = np.random.default_rng(1).choice(truth, (20_000, 3)).max(axis=1)
    regret, close = nas_searches.expected(truth, 3)
    assert regret == pytest.approx((truth.max() - draws).mean(), abs=2e-4)
    assert close == pytest.approx((truth.max() - draws <= nas_searches.CLOSE).mean(), abs=0.01)
