"""From stored scores to a ranking: means over seeds and proxies, failures, ties, and what is told.

The scores are made up, and what should come of them is worked out by hand or by NumPy.
"""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from condense.data.catalogue import Source
from condense.errors import UserError
from condense.study.trials import Trial, Trials
from nas.free import BASELINES
from nas.plan import SearchPlan
from nas.ranking import Ranking, check_column, collect, column_names
from nas.spaces import nasbench201, space
from nas.training import SearchTask

CELLS = (5, 7, 9, 11)
NAN = float("nan")
PLAN = SearchPlan(
    space="nasbench201",
    source=Source(name="digits"),
    fingerprint="0123",
    proxies=("first", "second", "alone"),
    indices=CELLS,
    seeds=2,
    regime=space("nasbench201").REGIME,
    held_out=100,
    num_classes=10,
    by="pair accuracy",
    arms={"pair": ("first", "second"), "alone": ("alone",)},
    recipes={name: (name, "epochs=20") for name in ("free", "first", "second", "alone")},
)
ACCURACY = {
    ("first", 0): [0.1, 0.2, NAN, 0.4], ("first", 1): [0.3, 0.4, NAN, 0.4],
    ("second", 2): [0.5, NAN, NAN, 0.4], ("second", 3): [0.7, 0.9, NAN, 0.4],
    ("alone", 0): [0.6, 0.5, 0.4, 0.3], ("alone", 1): [0.6, 0.5, 0.4, 0.3],
}  # fmt: skip
"""The held-out accuracy by proxy and seed, of each cell; NaN where the training diverged."""
PAIR = [(0.2 + 0.6) / 2, (0.3 + 0.9) / 2, NAN, 0.4]
"""Of the arm: the mean over its proxies of the means over their seeds."""


def _free(cell: int) -> dict[str, float]:
    known = {"parameters": [1, 2, 3, 4], "synflow": [4, 3, 2, 1], "naswot": [1, 1, 2, 3]}
    known["flops"] = [10, 20, 30, 40]
    return {name: float(known.get(name, [0, 1, 0, 1])[cell]) for name in BASELINES}


def _trained(accuracy: float) -> dict[str, float]:
    diverged = float(np.isnan(accuracy))
    return {
        "accuracy": accuracy,
        "held_loss": 1 - accuracy,
        "summed_loss": 10 * (1 - accuracy),
        "diverged": diverged,
    }


def _fill(store: Trials, plan: SearchPlan = PLAN) -> None:
    def add(task: SearchTask, scores: dict[str, float]) -> None:
        store.add(Trial(plan.keys.of(task), {"scores": scores}, 0.1, "here"))

    for cell, index in enumerate(plan.indices):
        add(SearchTask(0, index, "free"), _free(cell))
        for (proxy, seed), accuracies in ACCURACY.items():
            add(SearchTask(seed, index, proxy), _trained(accuracies[cell]))


@pytest.fixture
def store() -> Iterator[Trials]:
    with Trials(":memory:") as trials:
        yield trials


@pytest.fixture
def ranking(store: Trials) -> Ranking:
    _fill(store)
    return collect(PLAN, store, truth=np.array([0.9, 0.8, 0.1, 0.7]))


def test_scores_are_means_over_seeds_and_then_over_proxies(ranking: Ranking) -> None:
    assert ranking.indices == CELLS
    np.testing.assert_allclose(ranking.columns["pair accuracy"], PAIR)
    np.testing.assert_allclose(ranking.columns["pair held_loss"], np.array(PAIR) - 1)
    np.testing.assert_allclose(ranking.columns["pair summed_loss"], 10 * (np.array(PAIR) - 1))
    np.testing.assert_allclose(ranking.columns["alone accuracy"], [0.6, 0.5, 0.4, 0.3])
    assert ranking.scores == ["accuracy", "held_loss", "summed_loss"]
    assert set(column_names(PLAN.arms)) <= set(ranking.columns)


def test_what_diverged_is_counted_and_ranked_last(ranking: Ranking) -> None:
    assert ranking.order == [1, 0, 3, 2]  # 0.6; 0.4 twice, by index; and the one without a score
    np.testing.assert_array_equal(ranking.diverged["pair"], [0, 1, 4, 0])
    np.testing.assert_array_equal(ranking.diverged["alone"], [0, 0, 0, 0])
    np.testing.assert_array_equal(ranking.trainings["pair"], [4, 4, 4, 4])
    np.testing.assert_array_equal(ranking.trainings["alone"], [2, 2, 2, 2])


def test_free_is_the_rank_average_of_its_parts_and_is_averaged_with_each_score(
    ranking: Ranking,
) -> None:
    parts = [rankdata(ranking.columns[name]) for name in ("parameters", "synflow", "naswot")]
    np.testing.assert_allclose(ranking.columns["free"], np.mean(parts, axis=0))
    both = (rankdata([0.6, 0.5, 0.4, 0.3]) + rankdata(np.mean(parts, axis=0))) / 2
    np.testing.assert_allclose(ranking.columns["alone accuracy + free"], both)
    assert np.isnan(ranking.columns["pair accuracy + free"]).tolist() == [False, False, True, False]


def test_cells_that_an_arm_has_not_seen_are_left_out(store: Trials) -> None:
    full = Trials(":memory:")
    _fill(full)
    late = PLAN.keys.of(SearchTask(0, 7, "alone")), PLAN.keys.of(SearchTask(1, 7, "alone"))
    once = PLAN.keys.of(SearchTask(1, 9, "alone"))
    for trial in full.find(PLAN.keys.kind).values():
        if trial.key not in (*late, once):
            store.add(trial)
    ranking = collect(PLAN, store, truth=np.array([0.9, 0.8, 0.1, 0.7]))
    assert ranking.indices == (5, 9, 11)
    np.testing.assert_array_equal(ranking.truth, [0.9, 0.1, 0.7])
    np.testing.assert_array_equal(ranking.trainings["alone"], [2, 1, 2])
    np.testing.assert_allclose(ranking.columns["alone accuracy"], [0.6, 0.4, 0.3])
    full.close()


def test_nothing_held_out_leaves_the_training_loss(store: Trials) -> None:
    plan = dataclasses.replace(PLAN, held_out=0, by="pair summed_loss")
    _fill(store, plan)
    ranking = collect(plan, store, truth=None)
    assert ranking.scores == ["summed_loss"]
    assert ranking.agreements == {}
    assert ranking.contrasts == {}
    assert ranking.shown == {}


def test_another_average_is_a_column_if_it_is_ranked_by(store: Trials) -> None:
    plan = dataclasses.replace(PLAN, by="alone accuracy + parameters")
    _fill(store, plan)
    ranking = collect(plan, store, truth=None)
    np.testing.assert_allclose(ranking.columns[plan.by], [2.5, 2.5, 2.5, 2.5])
    assert ranking.order == [0, 1, 2, 3]


def test_agreement_gains_and_contrasts_are_of_the_right_columns(ranking: Ranking) -> None:
    def rho(column: str) -> float:
        values = np.nan_to_num(ranking.columns[column], nan=-1e9)  # a failure is below all others
        return spearmanr(values, ranking.truth).statistic

    alone, pair = rho("alone accuracy"), rho("pair accuracy")
    assert ranking.agreements["alone accuracy"]["spearman"].value == pytest.approx(alone)
    gain = ranking.gains["alone accuracy"]["spearman"].value
    assert gain == pytest.approx(alone - rho("parameters"))
    assert "parameters" not in ranking.gains
    contrasts = ranking.contrasts
    difference = contrasts["alone accuracy minus pair accuracy"]["spearman"].value
    assert difference == pytest.approx(alone - pair)
    added = contrasts["alone accuracy + free minus free"]["spearman"].value
    assert added == pytest.approx(rho("alone accuracy + free") - rho("free"))
    scores = ("accuracy", "held_loss", "summed_loss")
    assert len(contrasts) == 2 * len(scores) + 2 * len(scores)


def test_baselines_that_rank_alike_are_shown_once(ranking: Ranking) -> None:
    assert ranking.repeats["flops"] == "parameters"
    assert ranking.repeats["snip"] == "grad_norm"
    assert "parameters" not in ranking.repeats
    assert "flops" not in ranking.shown
    assert "flops" in ranking.agreements
    assert "flops" not in ranking.gains


@pytest.mark.parametrize("count", [1, 2])
def test_agreement_takes_two(ranking: Ranking, count: int) -> None:
    names = ("parameters", "flops", "synflow")
    few = Ranking(
        space="nasbench201",
        indices=CELLS[:count],
        columns={name: ranking.columns[name][:count] for name in names},
        diverged={},
        trainings={},
        by="parameters",
        truth=ranking.truth[:count],
    )
    assert few.repeats == ({"flops": "parameters"} if count == 2 else {})
    assert list(few.agreements) == (list(names) if count == 2 else [])


def test_without_the_yardstick_there_are_no_gains(ranking: Ranking) -> None:
    columns = {name: ranking.columns[name] for name in ("pair accuracy", "flops")}
    assert dataclasses.replace(ranking, columns=columns).gains == {}


def test_a_column_keeps_the_scores_on_each_proxy(ranking: Ranking) -> None:
    column = ranking.column("pair accuracy + free")
    assert [part.arm for part in column.parts] == ["pair", ""]
    np.testing.assert_allclose(column.parts[0].values[0], [0.2, 0.3, NAN, 0.4])
    assert column.arms == {"pair": 2}
    np.testing.assert_allclose(column.values(), ranking.columns["pair accuracy + free"])
    assert ranking.column("parameters").arms == {}


def test_files_hold_the_rows_the_best_first(ranking: Ranking, tmp_path: Path) -> None:
    ranking.save(tmp_path)
    content = json.loads((tmp_path / "ranking.json").read_text())
    assert content["space"] == "nasbench201"
    assert content["ranked_by"] == "pair accuracy"
    with (tmp_path / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["7", "5", "11", "9"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["arch"] == nasbench201.architecture(7).name
    assert rows[3]["pair accuracy"] == ""
    assert rows[0]["pair diverged"] == "1"
    assert float(rows[0]["truth"]) == 0.8
    assert content["architectures"][3]["pair accuracy"] is None
    assert content["agreement"]["alone accuracy"]["spearman"]["value"] is not None
    assert content["difference_from_parameters"].keys() == ranking.gains.keys()
    assert content["differences"].keys() == ranking.contrasts.keys()


def test_columns_to_rank_by_are_checked() -> None:
    check_column("pair summed_loss + free", PLAN.arms, held_out=0)
    check_column("pair accuracy", PLAN.arms, held_out=1)
    for column, words in (
        ("pair acuracy", "did you mean `pair accuracy`"),
        ("pair accuracy", "needs images to score by"),
        ("free + free", "names a column twice"),
    ):
        with pytest.raises(UserError, match=words):
            check_column(column, PLAN.arms, held_out=0)
