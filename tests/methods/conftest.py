"""What the methods' tests share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from condense import load_dataset
from condense.data.preprocess import make_preprocess
from condense.methods.base import Problem, Recipe
from condense.methods.selection import select


@pytest.fixture
def problem() -> Callable[..., Problem]:
    """A method and settings to a tiny problem: digits."""

    def make(method: Any, ipc: int = 2, **changes: Any) -> Problem:
        digits = load_dataset("digits")
        settings = {"network": "convnet-d2-w8", "real_batch": 8, "steps": 10, **changes}
        recipe = Recipe(name="test", method=method).override(settings)
        start = select(
            "random", digits, ipc, preprocess=make_preprocess("standard", digits), seed=0
        )
        return Problem(
            dataset=digits, recipe=recipe, start=start, seed=3, device=torch.device("cpu")
        )

    return make
