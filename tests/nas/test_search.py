"""A search in its folder.

Killed and resumed, with and without a reference, and what it says of bad input.
"""

import csv
import json
import os
import pickle
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import rankdata, spearmanr

import cli
from condense import UserError, load_dataset
from condense.data.catalogue import Source
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from condense.study.workers import Workers
from nas import reference
from nas.agreement import difference
from nas.free import BASELINES
from nas.plan import change, find_reference, load_plan
from nas.report import command_of
from nas.search import resume, search, show, train_reference
from nas.spaces import describe, nasbench201, space

CELLS = (1462, 4676, 6111, 9930, 13714)
QUICK = change(space("nasbench201").REGIME, epochs=2, cells=1, width=4)
HERE = Workers(workers=0, device="cpu")


@pytest.fixture(scope="module")
def digits():
    torch.set_num_threads(1)
    return load_dataset("digits")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """The baselines, which have tests of their own, of the small networks."""
    monkeypatch.setattr("nas.spaces.nasbench201.CELLS", 1)
    build = nasbench201.Cell.build
    monkeypatch.setattr(
        nasbench201.Cell,
        "build",
        lambda self, shape, classes, cells=1, width=4: build(self, shape, classes, cells, width),
    )


def _search(digits, out, **changes):
    options = {
        "space_name": "nasbench201",
        "proxies": ["random:2", "early-stop:6"],
        "sample": CELLS,
        "seeds": 2,
        "workers": HERE,
    }
    return search(
        digits, out=out, **{**options, "regime": QUICK, "held_out": 50, "quiet": True, **changes}
    )


def _table(path: Path, truth: dict[int, float], dataset: str = "digits") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", f"{dataset}_test"])
        writer.writerows(
            [index, nasbench201.architecture(index).name, value] for index, value in truth.items()
        )
    return path


TRUTH = {index: 80.0 + place for place, index in enumerate(CELLS)}


def test_a_search_without_a_reference_ranks_and_says_what_is_missing(digits, tmp_path):
    found = _search(digits, tmp_path / "run")
    assert (found.done, found.total) == (25, 25)  # 5 cells: baselines, and 2 proxies by 2 seeds
    assert any(
        "no reference for digits" in note and "nas reference --space nasbench201" in note
        for note in found.notes
    )
    assert found.ranking.agreements == {}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "ranking.csv",
        "ranking.json",
        "report.html",
        "search.json",
    }
    rows = list(csv.DictReader((tmp_path / "run" / "ranking.csv").read_text().splitlines()))
    assert sorted(int(row["index"]) for row in rows) == sorted(CELLS)
    assert {
        *BASELINES,
        "random:2 accuracy",
        "early-stop:6 summed_loss",
        "free",
        "random:2 held_loss + free",
    } <= rows[0].keys()
    scores = [float(row["random:2 summed_loss + free"]) for row in rows]
    assert scores == sorted(scores, reverse=True)  # what ranks NAS-Bench-201 unless told otherwise
    assert "truth" not in rows[0]
    assert show(tmp_path / "run").ranking.to_json() == found.ranking.to_json()


def test_scores_are_means_over_the_seeds_and_agree_with_the_truth_as_scipy_says(digits, tmp_path):
    table = _table(tmp_path / "truth.csv", TRUTH)
    found = _search(digits, tmp_path / "run", reference=table)
    with sqlite3.connect(tmp_path / "run" / "trials.sqlite") as database:
        rows = database.execute(
            "SELECT task, result FROM trials WHERE task LIKE '%steps=6%'"
        ).fetchall()
    database.close()
    by_name: dict[str, list[float]] = {}
    for task, result in rows:
        name, scores = json.loads(task)["architecture"], json.loads(result)["scores"]
        by_name.setdefault(name, []).append(scores["held_loss"])
    losses = [np.mean(by_name[nasbench201.architecture(index).name]) for index in CELLS]
    assert {len(values) for values in by_name.values()} == {2}
    ranking = found.ranking
    assert ranking.indices == CELLS
    np.testing.assert_allclose(ranking.columns["early-stop:6 held_loss"], np.negative(losses))
    parameters = [
        nasbench201.architecture(index).parameters((1, 8, 8), 10, 5, 16) for index in CELLS
    ]
    np.testing.assert_array_equal(ranking.columns["parameters"], parameters)
    free = sum(rankdata(ranking.columns[name]) for name in ("parameters", "synflow", "naswot"))
    np.testing.assert_allclose(ranking.columns["free"], free / 3)
    average = rankdata(np.negative(losses)) + rankdata(free)  # half and half
    np.testing.assert_array_equal(ranking.columns["early-stop:6 held_loss + free"], average / 2)
    truth = list(TRUTH.values())
    rho = ranking.agreements["early-stop:6 held_loss"]["spearman"].value
    assert rho == pytest.approx(spearmanr(np.negative(losses), truth).statistic)
    gain = ranking.gains["early-stop:6 held_loss"]["spearman"].value
    assert gain == pytest.approx(rho - spearmanr(parameters, truth).statistic)
    other = spearmanr(ranking.columns["random:2 held_loss"], truth).statistic
    contrast = ranking.contrasts["early-stop:6 held_loss minus random:2 held_loss"]
    assert contrast["spearman"].value == pytest.approx(rho - other)
    for first, second in (
        ("random:2 accuracy + free", "free"),
        ("early-stop:6 summed_loss + free", "random:2 summed_loss + free"),
    ):
        values = [ranking.agreements[name]["spearman"].value for name in (first, second)]
        added = ranking.contrasts[f"{first} minus {second}"]["spearman"].value
        assert added == pytest.approx(values[0] - values[1])
    assert not [note for note in found.notes if "rank these candidates" not in note]
    assert "Spearman" in (tmp_path / "run" / "report.html").read_text()


ASKED = {
    "space_name": "nasbench201", "proxies": ["random:2"], "sample": CELLS, "seeds": 4,
    "regime": change(QUICK, epochs=20), "held_out": 50, "quiet": True,
}  # fmt: skip
SCRIPT = """
import pickle, sys
sys.path[:0] = {path!r}
import torch; torch.set_num_threads(1)
from condense import load_dataset
from condense.study.workers import Workers
from nas.search import search
if __name__ == "__main__":
    workers = Workers(workers=2, threads=1, device="cpu")
    search(load_dataset("digits"), out=sys.argv[1], workers=workers, **pickle.loads({asked!r}))
"""


@pytest.mark.slow
def test_a_killed_search_ends_with_the_same_ranking(digits, tmp_path, monkeypatch):
    monkeypatch.undo()  # as the script's workers have it
    search(digits, out=tmp_path / "whole", workers=HERE, **ASKED)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=sys.path, asked=pickle.dumps(ASKED)))
    victim = subprocess.Popen(
        [sys.executable, script, tmp_path / "killed"], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    store = tmp_path / "killed" / "trials.sqlite"
    while _rows(store) < 8:
        time.sleep(0.02)
        assert victim.poll() is None, "it should be killed before its end"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    kept = _rows(store)
    assert kept < 25
    before = show(tmp_path / "killed")
    assert before.done == kept
    assert any("still to be made" in note for note in before.notes)
    resume(tmp_path / "killed", workers=Workers(workers=2, threads=1, device="cpu"), quiet=True)
    assert _rows(store) == 25
    assert (tmp_path / "killed" / "ranking.json").read_bytes() == (
        tmp_path / "whole" / "ranking.json"
    ).read_bytes()
    assert (tmp_path / "killed" / "ranking.csv").read_bytes() == (
        tmp_path / "whole" / "ranking.csv"
    ).read_bytes()


def _rows(store: Path) -> int:
    if not store.exists():
        return 0
    database = sqlite3.connect(store, timeout=30)
    try:
        return database.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:  # its table is still to be made
        return 0
    finally:
        database.close()


def test_out_of_time_and_resumed(digits, tmp_path):
    first = _search(digits, tmp_path / "run", minutes=0.0005)
    assert first.total == 25
    assert first.done < 25
    assert resume(tmp_path / "run", digits, workers=HERE, quiet=True).done == 25
    undisturbed = _search(digits, tmp_path / "other")
    assert show(tmp_path / "run").ranking.to_json() == undisturbed.ranking.to_json()


def test_where_the_benchmark_has_a_reference_it_is_named(digits, tmp_path):
    found = _search(digits, tmp_path / "run", minutes=1e-4, source=Source(name="cifar10"))
    assert any("no reference for cifar10" in note and "nas convert" in note for note in found.notes)


def test_two_searches_share_a_store(digits, tmp_path):
    shared = tmp_path / "all.sqlite"
    _search(digits, tmp_path / "one", store=shared, sample=CELLS[:3])
    assert _rows(shared) == 15
    found = _search(digits, tmp_path / "two", store=shared, sample=CELLS[1:], seeds=1)
    assert _rows(shared) == 15 + 2 * 3  # two new cells; the second seed is not asked for
    assert found.done == found.total == 4 * 3


def test_diverged_candidates_rank_last_and_are_named(digits, tmp_path):
    found = _search(
        digits, tmp_path / "run", proxies=["random:2"], seeds=1, regime=change(QUICK, lr=1e30)
    )
    assert any("5 trainings of 5 architectures diverged" in note for note in found.notes)
    rows = json.loads((tmp_path / "run" / "ranking.json").read_text())["architectures"]
    assert len(rows) == 5
    assert all(row["random:2 accuracy"] is None and row["random:2 diverged"] == 1 for row in rows)


def test_a_reference_run_makes_the_table_that_a_search_takes(digits, tmp_path):
    options = {
        "space_name": "nasbench201",
        "sample": CELLS,
        "regime": change(QUICK, epochs=1),
        "held_out": 50,
        "workers": HERE,
    }
    found = train_reference(digits, out=tmp_path / "truth", images=100, quiet=True, **options)
    assert found.ranking is None
    assert found.done == 5
    table = reference.load(tmp_path / "truth" / "reference.csv", "nasbench201")
    truth = table.truth("digits", CELLS)
    assert ((truth >= 0) & (truth <= 1)).all()
    assert table.known("digits_valid") == list(CELLS)
    judged = _search(digits, tmp_path / "run", reference=tmp_path / "truth" / "reference.csv")
    np.testing.assert_allclose(judged.ranking.truth, truth)


def test_a_reference_that_holds_nothing_out_has_the_test_accuracies(digits, tmp_path):
    train_reference(
        digits, space_name="nasbench201", sample=CELLS[:1], out=tmp_path, images=20, seeds=1,
        regime=change(QUICK, epochs=1), held_out=0, workers=HERE, quiet=True,
    )  # fmt: skip
    table = reference.load(tmp_path / "reference.csv", "nasbench201")
    assert sorted(table.columns) == ["digits_test", "diverged", "n_seeds"]


def test_a_reference_is_found_in_the_data_folder(tmp_path):
    assert find_reference("nasbench201", "digits_test", None, str(tmp_path)) is None
    _table(tmp_path / "nasbench201.csv", TRUTH)
    assert find_reference("nasbench201", "digits_test", None, str(tmp_path)).source == str(
        tmp_path / "nasbench201.csv"
    )
    assert (
        find_reference("nasbench201", "cifar10_test", None, str(tmp_path)) is None
    )  # it has no column for that


def test_condensed_sets_that_saw_the_held_out_images_are_named(digits, tmp_path):
    select("random", digits, 2, preprocess=make_preprocess("standard", digits), seed=0).save(
        tmp_path / "ipc2"
    )
    found = _search(digits, tmp_path / "run", proxies=[str(tmp_path / "ipc2")], seeds=1)
    assert any(
        "ipc2: condensed from images that include those held out" in note for note in found.notes
    )
    again = select("random", digits, 2, preprocess=make_preprocess("standard", digits), seed=1)
    again.save(tmp_path / "ipc2")
    with pytest.raises(UserError, match="another proxy `ipc2`"):
        resume(tmp_path / "run", digits, workers=HERE, quiet=True)


def test_bad_input_is_refused_before_the_first_training(digits, tmp_path):
    gaps = _table(tmp_path / "gaps.csv", dict.fromkeys(CELLS[:3], 90.0))
    for wrong, message in (
        ({"reference": gaps}, "has no `digits_test` for 2 of 5"),
        ({"reference": _table(tmp_path / "other.csv", TRUTH, "cifar10")}, "digits_test"),
        ({"by": "random accuracy"}, "did you mean `random:2 accuracy`"),
        ({"seeds": 0}, "`seeds` is 0"),
        ({"sample": [15625]}, "no architecture 15625"),
        (
            {"space_name": "convnet720", "sample": ["convnet-d4-w32-layer-relu-max"]},
            "needs images of at least 16 px",
        ),
        ({"space_name": "nasbench"}, "did you mean `nasbench201`"),
    ):
        with pytest.raises(UserError, match=message):
            _search(digits, tmp_path / "run", **wrong)
        assert not (tmp_path / "run").exists()


def test_folders_are_not_mixed_up(digits, tmp_path):
    with pytest.raises(UserError, match="holds no search"):
        resume(tmp_path)
    _search(digits, tmp_path / "run", sample=CELLS[:2], seeds=1)
    with pytest.raises(UserError, match="holds another search"):
        _search(digits, tmp_path / "run")
    with pytest.raises(UserError, match="but digits now has content"):
        resume(tmp_path / "run", digits.hold_out(9, seed=0))
    (tmp_path / "run" / "search.json").write_text('{"plan": {"space": "nasbench201"}}')
    with pytest.raises(UserError, match="not of this version"):
        show(tmp_path / "run")


# The alarm may come inside a callback of the garbage collector, which reports it and drops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_resumed_search_finds_its_dataset_again(digits, tmp_path):
    _search(
        digits,
        tmp_path / "run",
        sample=CELLS[:2],
        seeds=1,
        minutes=1e-4,
        source=Source(name="digits"),
    )
    assert resume(tmp_path / "run", workers=HERE, quiet=True).done == 6


def test_describe():
    assert describe("nasbench201", "6111")["name"] == nasbench201.architecture(6111).name
    assert describe("nasbench201", nasbench201.architecture(6111).name)["index"] == 6111
    assert describe("convnet720", 400).keys() == {"space", "index", "name", "parameters", "flops"}


def test_plain_lines_tell_how_it_goes(digits, tmp_path, capsys):
    _search(digits, tmp_path / "run", reference=_table(tmp_path / "t.csv", TRUTH), quiet=False)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("nasbench201: 25/25")
    assert re.search(r"best \d+ \|", last)  # its index and its name
    assert "Spearman" in last


def test_the_live_table_shows_every_proxy(digits, tmp_path, monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "220")
    _search(digits, tmp_path / "run", reference=_table(tmp_path / "t.csv", TRUTH), quiet=False)
    text = terminal.getvalue()
    assert "random:2" in text
    assert "early-stop:6" in text
    assert "25 of 25 trainings" in text


def test_draws_and_sets_of_one_kind_are_averaged_as_one_arm(digits, tmp_path):
    for name, seed in (("a", 5), ("b", 6)):
        preprocess = make_preprocess("standard", digits)
        select("random", digits, 2, preprocess=preprocess, seed=seed).save(tmp_path / name)
    proxies = ["random:2", "random:2@1", "random:2@2"]
    proxies += [f"ours={tmp_path / name}" for name in "ab"]
    table = _table(tmp_path / "truth.csv", TRUTH)
    options = {"held_out": None, "seeds": 1, "reference": table}
    found = _search(digits, tmp_path / "run", proxies=proxies, **options)
    ranking = found.ranking
    assert (found.done, found.total) == (5 * 6, 5 * 6)
    assert ranking.by == "random:2 summed_loss + free"
    assert list(ranking.trainings) == ["random:2", "ours"]
    assert ranking.sets["random:2 summed_loss"].shape == (3, 5)
    # Each proxy is trained on with a seed of its own, and each alone gives what it gave here.
    with sqlite3.connect(tmp_path / "run" / "trials.sqlite") as database:
        tasks = [json.loads(task) for (task,) in database.execute("SELECT task FROM trials")]
    database.close()
    seeds = {(task["proxy"], task["seed"]) for task in tasks if task["proxy"] != "free"}
    assert sorted(seed for _, seed in seeds) == [0, 0, 1, 1, 2]
    assert len({proxy for proxy, _ in seeds}) == 5
    np.testing.assert_allclose(
        ranking.columns["random:2 summed_loss"], ranking.sets["random:2 summed_loss"].mean(axis=0)
    )
    name = "ours summed_loss + free minus random:2 summed_loss + free"
    plain = difference(*(ranking.columns[part] for part in name.split(" minus ")), ranking.truth)
    assert ranking.contrasts[name]["spearman"].value == plain["spearman"].value
    widths = [e.high - e.low for e in (ranking.contrasts[name]["kendall"], plain["kendall"])]
    assert widths[0] > widths[1]  # the sets might have been others
    assert show(tmp_path / "run").ranking.to_json() == ranking.to_json()


def test_early_stopping_again_is_another_run(digits, tmp_path):
    found = _search(digits, tmp_path / "run", proxies=["early-stop:6", "early-stop:6@1"], seeds=1)
    first, second = found.ranking.sets["early-stop:6 summed_loss"]
    assert not np.array_equal(first, second)


def test_any_columns_can_be_averaged_and_rank(digits, tmp_path):
    by = "random:2 held_loss + parameters + jacob_cov"
    found = _search(digits, tmp_path / "run", by=by, proxies=["random:2"], seeds=1)
    columns = found.ranking.columns
    expected = np.mean([rankdata(columns[part]) for part in by.split(" + ")], axis=0)
    np.testing.assert_array_equal(columns[by], expected)
    best = json.loads((tmp_path / "run" / "ranking.json").read_text())
    assert best["ranked_by"] == by
    assert best["architectures"][0]["index"] == CELLS[int(np.argmax(expected))]


def test_nothing_is_held_out_where_training_losses_rank(digits, tmp_path):
    options = {"held_out": None, "proxies": ["random:2"], "seeds": 1, "sample": CELLS[:2]}
    found = _search(digits, tmp_path / "run", **options)
    assert found.ranking.scores == ["summed_loss"]
    assert "random:2 accuracy" not in found.ranking.columns
    assert json.loads((tmp_path / "run" / "search.json").read_text())["plan"]["held_out"] == 0
    scored = _search(digits, tmp_path / "other", **options, by="random:2 accuracy + free")
    assert scored.ranking.scores == ["accuracy", "held_loss", "summed_loss"]
    plan = json.loads((tmp_path / "other" / "search.json").read_text())["plan"]
    assert plan["held_out"] == 1000
    with pytest.raises(UserError, match="needs images to score by: --held-out 1000"):
        _search(digits, tmp_path / "third", by="random:2 accuracy", **options | {"held_out": 0})


def test_baselines_that_rank_alike_are_shown_once(digits, tmp_path):
    table = _table(tmp_path / "truth.csv", TRUTH)
    found = _search(digits, tmp_path / "run", proxies=["random:2"], seeds=1, reference=table)
    ranking = found.ranking
    assert ranking.repeats["flops"] == "parameters"
    assert "flops" in ranking.agreements
    assert "flops" not in ranking.shown
    assert any("flops as parameters" in note for note in found.notes)


def test_the_report_shows_scores_before_names(digits, tmp_path):
    table = _table(tmp_path / "truth.csv", TRUTH)
    found = _search(digits, tmp_path / "run", reference=table, seeds=1)
    page = (tmp_path / "run" / "report.html").read_text()
    data = json.loads(re.findall(r'<script type="application/json">([^<]*)</script>', page)[0])
    assert data["headers"][:4] == ["rank", found.ranking.by, "truth", "arch"]
    assert [row[0] for row in data["rows"]] == [1, 2, 3, 4, 5]
    *again, _ = shlex.split(command_of(load_plan(tmp_path / "run"), tmp_path / "run"))
    result = CliRunner().invoke(cli.cli, [*again[1:], str(tmp_path / "again"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    first, second = (tmp_path / name / "ranking.csv" for name in ("run", "again"))
    assert first.read_bytes() == second.read_bytes()  # by the command that the report tells


def test_a_ranking_is_judged_by_another_column(digits, tmp_path):
    table = _table(tmp_path / "truth.csv", TRUTH, "cifar100")
    options = {"reference": table, "proxies": ["random:2"], "seeds": 1}
    found = _search(digits, tmp_path / "run", truth="cifar100_test", **options)
    np.testing.assert_allclose(found.ranking.truth, np.array(list(TRUTH.values())) / 100)
    assert "cifar100_test of" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match="did you mean `cifar100_test`"):
        _search(digits, tmp_path / "other", truth="cifar10_test", **options)
    with pytest.raises(UserError, match="--truth x_test is a column of a table"):
        _search(digits, tmp_path / "other", truth="x_test", sample=CELLS[:1])


def test_the_usual_regime_of_cells_is_the_one_that_was_measured():
    regime, grid = space("nasbench201").REGIME, space("convnet720")
    assert regime.sizes == {"cells": 1, "width": 8}
    assert (regime.protocol.epochs, regime.protocol.batch) == (20, 25)
    assert space("nasbench201").SCORE == "summed_loss + free"
    assert space("nasbench201").RESOLUTION == 16
    assert not hasattr(grid, "RESOLUTION")
    reference_of = space("nasbench201").REFERENCE_REGIME  # the benchmark's own
    assert reference_of.sizes == {"cells": 5, "width": 16}


def test_regimes_are_changed_by_name():
    assert change(QUICK, cells=3, lr=0.2).sizes["cells"] == 3
    assert change(QUICK, cells=3, lr=0.2).protocol.lr == 0.2
    with pytest.raises(UserError, match="did you mean `epochs`"):
        change(QUICK, epoch=3)
