"""DD-Ranking's scores against their definition, and their interval against a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from condense import Score
from condense.training.robustness import augmentation_robust_score, label_robust_score

share = some.floats(0, 1)
unhurried = settings(deadline=None)  # scipy is loaded within the first example


def one(value: float) -> Score:
    return Score((value, value))


@unhurried
@given(real=share, own=share, random=share, hard=share, weight=share)
def test_the_label_robust_score_is_as_defined(
    real: float, own: float, random: float, hard: float, weight: float
) -> None:
    alpha = weight * (own - random) - (1 - weight) * (real - hard)
    wanted = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    found = label_robust_score(real, one(own), one(random), hard=one(hard), weight=weight)
    assert found.value == pytest.approx(wanted)
    as_measured = label_robust_score(
        one(real), one(own), one(random), hard=one(hard), weight=weight
    )
    assert as_measured.value == pytest.approx(wanted)
    assert -1e-9 <= found.value <= 1 + 1e-9


@unhurried
@given(own=share, random=share, plain=share, plain_random=share, weight=share)
def test_the_augmentation_robust_score_is_as_defined(
    own: float, random: float, plain: float, plain_random: float, weight: float
) -> None:
    beta = weight * (own - random) + (1 - weight) * (plain - plain_random)
    wanted = (math.exp(beta) - math.exp(-1)) / (math.e - math.exp(-1))
    parts = map(one, (own, random, plain, plain_random))
    assert augmentation_robust_score(*parts, weight=weight).value == pytest.approx(wanted)


def test_an_accuracy_known_once_gives_no_interval() -> None:
    found = label_robust_score(0.85, Score((0.7,)), Score((0.3, 0.31)))
    assert found.ci95 == pytest.approx((0, 1))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, truth = np.random.default_rng(0), label_robust_score(0.85, one(0.7), one(0.3)).value
    covered = 0
    for _ in range(400):
        own, random = (
            Score(tuple(rng.normal(mean, spread, count)))
            for mean, spread, count in ((0.7, 0.01, 5), (0.3, 0.03, 4))
        )
        low, high = label_robust_score(0.85, own, random).ci95
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98
