"""Rank agreement against scipy and against a bootstrap that really resamples."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from benchmarks.nas_coverage import AskedSets, simulate_sets
from condense.errors import UserError
from nas import agreement as rank
from nas.agreement import MEASURES, agreement, difference
from nas.columns import Column, Measured
from nas.report import interval

CORRELATIONS = ("spearman", "kendall", "spearman_top20", "kendall_top20")

pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")


def _naive(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every measure by its definition, on lists that may hold an element several times."""
    n = len(truth)
    best = np.argsort(-truth, kind="stable")
    result = {}
    for top, fraction in (("", 1.0), ("_top20", 0.2), ("_top10", 0.1)):
        part = best[: max(1, round(fraction * n))]
        several = len(part) > 1
        result[f"spearman{top}"] = (
            spearmanr(scores[part], truth[part]).statistic if several else np.nan
        )
        result[f"kendall{top}"] = (
            kendalltau(scores[part], truth[part]).statistic if several else np.nan
        )
    result["top1"] = truth[scores == scores.max()].mean()
    result["regret"] = truth.max() - result["top1"]
    k = max(1, round(0.1 * n))
    border = np.sort(scores)[-k]
    certain, tied = scores > border, scores == border
    chance = certain + tied * (k - certain.sum()) / tied.sum()
    result["precision_top10"] = chance[best[:k]].sum() / k
    return result


def _noisy(n: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    scores = truth + rng.normal(size=n)
    return (scores.round(), truth.round(1)) if ties else (scores, truth)


def _check(values: dict[str, float], expected: dict[str, float]) -> None:
    assert set(values) == set(expected) == set(MEASURES)
    for name in MEASURES:
        assert values[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 140), seed=st.integers(0, 1000), ties=st.booleans())
def test_values_are_those_of_scipy_and_the_definitions(n, seed, ties):
    scores, truth = _noisy(n, seed, ties)
    found = agreement(scores, truth, resamples=2)
    expected = _naive(scores, truth)
    for top, fraction in (("_top20", 0.2), ("_top10", 0.1)):
        if max(1, round(fraction * n)) < 10:  # too few to say anything of
            expected |= {f"spearman{top}": np.nan, f"kendall{top}": np.nan}
    _check({name: found[name].value for name in MEASURES}, expected)


def test_a_top_of_fewer_than_ten_is_no_finding():
    for n, top20, top10 in ((47, False, False), (48, True, False), (100, True, True)):
        found = agreement(*_noisy(n, 1, ties=False), resamples=20)
        shown = {top: interval(found[f"spearman{top}"]) for top in ("", "_top20", "_top10")}
        assert "[" in shown[""]
        assert ("[" in shown["_top20"], "[" in shown["_top10"]) == (top20, top10)
        assert shown["_top10"] == "too few" or top10


def test_the_truth_of_the_best_and_the_regret_have_no_interval():
    found = agreement(*_noisy(100, 1, ties=False), resamples=20)
    for name in ("top1", "regret"):
        assert np.isfinite(found[name].value)
        assert found.to_json()[name] | {"value": 0} == {"value": 0, "low": None, "high": None}
    assert "[" not in interval(found["top1"])
    assert np.isfinite(found["precision_top10"].low)


def test_intervals_cover_the_sets_too():
    """Two arms of five sets that differ as much as their architectures do not show.

    Nominal 95 %: a bootstrap over the architectures alone holds the truth in far fewer samples.
    """
    asked = AskedSets(samples=60, resamples=200, sets=4, spread=0.6, noise=0.5)
    shares = simulate_sets(asked, 60, large=20)
    assert shares["spearman"][1] >= 0.85
    assert shares["difference of spearman"][1] >= 0.88
    alone = simulate_sets(asked, 60, large=20, over_sets=False)
    assert alone["difference of spearman"][1] < shares["difference of spearman"][1] - 0.1


def test_sets_widen_an_interval_and_move_no_value():
    truth, noise = np.random.default_rng(3).normal(size=(2, 80))
    weights = np.array([[1.0], [0.2], [2.0]])
    several = Column((Measured(weights * truth + noise, "random"),))
    found, alone = agreement(several, truth), agreement(several.values(), truth)
    assert found["spearman"].value == alone["spearman"].value
    assert found["spearman"].high - found["spearman"].low > 1.2 * (
        alone["spearman"].high - alone["spearman"].low
    )
    assert found["spearman"].high <= 1
    same = difference(several, several, truth, resamples=50)  # the same sets are drawn for both
    assert vars(same["spearman"]) == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("long", [False, True])  # the two ways to Kendall's tau
def test_resamples_equal_really_resampled_lists(monkeypatch, long):
    if long:
        monkeypatch.setattr(rank._Kendall, "LONGEST", 10)
    scores, truth = _noisy(43, 5, ties=True)
    counts = next(rank._resamples(43, seed=3, resamples=25))
    assert counts.shape == (25, 43)
    assert (counts.sum(axis=1) == 43).all()
    assert len(np.unique(counts, axis=0)) == 25
    measured = rank._Pair(scores, truth).measure(counts)
    for row, values in zip(counts, measured, strict=True):
        drawn = np.repeat(np.arange(43), row.astype(int))
        _check(dict(zip(MEASURES, values, strict=True)), _naive(scores[drawn], truth[drawn]))


def test_intervals_are_percentiles_of_resamples_and_seeded():
    scores, truth = _noisy(60, 1, ties=False)
    found = agreement(scores, truth, seed=4, resamples=500)
    counts = next(rank._resamples(60, seed=4, resamples=500))
    drawn = [np.repeat(np.arange(60), row.astype(int)) for row in counts]
    rhos = [spearmanr(scores[d], truth[d]).statistic for d in drawn]
    assert (found["spearman"].low, found["spearman"].high) == pytest.approx(
        tuple(np.percentile(rhos, [2.5, 97.5]))
    )
    assert found == agreement(scores, truth, seed=4, resamples=500)
    assert found != agreement(scores, truth, seed=5, resamples=500)


def test_interval_has_the_known_width_and_covers():
    """n = 100 independent numbers.

    The standard deviation of rho is 1 / sqrt(99), whatever their distribution.
    """
    rng = np.random.default_rng(0)
    found = [
        agreement(*rng.normal(size=(2, 100)), seed=s, resamples=300)["spearman"] for s in range(100)
    ]
    assert np.mean([e.high - e.low for e in found]) == pytest.approx(2 * 1.96 / 99**0.5, rel=0.1)
    assert sum(e.low <= 0 <= e.high for e in found) >= 88


def test_resampling_in_blocks_changes_no_shape():
    blocks = list(rank._resamples(15_625, seed=0, resamples=200))
    assert len(blocks) > 1
    assert sum(map(len, blocks)) == 200
    assert all((block.sum(axis=1) == 15_625).all() for block in blocks)


def test_differences_are_paired():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=80)
    first = truth + 0.3 * rng.normal(size=80)
    second = first + 0.05 * rng.normal(
        size=80
    )  # nearly the same score: its difference is known far better than either
    found = difference(first, second, truth, seed=1, resamples=400)
    alone = (
        agreement(first, truth, seed=1, resamples=400),
        agreement(second, truth, seed=1, resamples=400),
    )
    for name in ("spearman", "kendall", "top1"):
        assert found[name].value == pytest.approx(alone[0][name].value - alone[1][name].value)
    assert found["spearman"].high - found["spearman"].low < 0.5 * (
        alone[0]["spearman"].high - alone[0]["spearman"].low
    )
    same = difference(first, first, truth, resamples=50)
    assert all(abs(v) == 0 for name in CORRELATIONS for v in vars(same[name]).values())
    better = difference(truth, rng.normal(size=80), truth, resamples=400)["spearman"]
    assert better.low > 0


def test_diverged_trainings_are_counted_and_ranked_last():
    truth = np.arange(20.0)
    scores = truth.copy()
    scores[[3, 19]] = np.nan, np.inf
    found = agreement(scores, truth, resamples=10)
    assert found.failed == 2
    last = np.where(np.isfinite(scores), scores, -1e9)
    assert found["spearman"].value == pytest.approx(spearmanr(last, truth).statistic)
    assert found["top1"].value == 18
    assert found["regret"].value == 1


def test_constants_have_no_correlation_and_json_says_null():
    found = agreement(np.ones(12), np.arange(12.0), resamples=20)
    assert np.isnan(found["spearman"].value)
    assert found["top1"].value == pytest.approx(5.5)  # a random choice
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["spearman"] == {"value": None, "low": None, "high": None}
    assert json.loads(text)["architectures"] == 12


def test_bad_input():
    with pytest.raises(UserError, match="one length"):
        agreement([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="one length"):
        agreement([1], [1])
    with pytest.raises(UserError, match="1 of 3 true values are missing"):
        agreement([1, 2, 3], [1, float("nan"), 2])
