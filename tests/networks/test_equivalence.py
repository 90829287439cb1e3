"""The fast path makes networks as accurate as the plain one: two one-sided tests.

Compiled code rounds otherwise, in bfloat16 where that is fast, so that single networks differ.
Their mean accuracies must not: at a level of 5 %, the difference is shown to be above -2 points and
to be below 2 points, which is to say that its interval of 90 % lies between them.
"""

import os
import shutil

import numpy as np
import pytest
from scipy.stats import t

from condense import Protocol, evaluate, load_dataset
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from condense.networks import accelerate

MARGIN = 0.02
NETWORKS = 8


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler here")
def test_compiled_networks_are_as_accurate_as_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_dataset("digits")
    preprocess = make_preprocess("standard", digits)
    images = select("random", digits, 10, preprocess=preprocess, seed=0)
    protocol = Protocol(epochs=30, batch=50, lr=0.05)
    accelerated: list[bool] = []

    def accuracies(fast: bool) -> np.ndarray:
        def worth(pixels: float) -> bool:
            accelerated.append(fast)
            return fast

        monkeypatch.setattr(accelerate, "worth_compiling", worth)
        options = {"repeats": NETWORKS, "protocol": protocol, "device": "cpu"}
        (score,) = evaluate(images, digits, "convnet-d2-w16", **options).values()
        return np.array(score.accuracies)

    slow, fast = accuracies(False), accuracies(True)
    assert set(accelerated) == {False, True}
    assert slow.mean() > 0.7  # they have learned something
    differences = fast - slow
    half = t.ppf(0.95, NETWORKS - 1) * differences.std(ddof=1) / NETWORKS**0.5
    assert abs(differences.mean()) + half < MARGIN, (differences.mean(), half)
