"""What the tests of Avalanche share: its warnings, and one small stream with memories of it."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from condense import load_dataset
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # jaxopt, which Avalanche's dependencies import, says it has retired
    import avalanche.training.supervised  # noqa: F401


def pytest_collection_modifyitems(items) -> None:
    """Exactly what Avalanche 0.6 and its dependencies warn of, nothing of ours."""
    for item in items:
        if item.path.parent.name == "continual":
            # An evaluator or a strategy without loggers is what a test wants.
            item.add_marker(pytest.mark.filterwarnings("ignore:No loggers specified:UserWarning"))
            # Its shipped plugins call the deprecated name of their own hook.
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:Call to deprecated function update:DeprecationWarning"
                )
            )


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def small(digits) -> Dataset:
    """Every fifth digit: enough for what does not measure accuracy."""
    return Dataset(
        "digits",
        digits.train.subset(torch.arange(0, len(digits.train), 5)),
        digits.test.subset(torch.arange(0, 300, 5)),
    )


@pytest.fixture(scope="session")
def world(small) -> SimpleNamespace:
    """The small dataset, its preprocessing, and four real images a class as a memory."""
    preprocess = make_preprocess("standard", small)
    return SimpleNamespace(
        dataset=small,
        preprocess=preprocess,
        order=(3, 1, 4, 0, 5, 9, 2, 6, 8, 7),
        memory=select("random", small, 4, preprocess=preprocess, seed=0),
    )
