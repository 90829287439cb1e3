"""The provenance of a set in plain JSON: versions, dataset, and how the set was made."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

import torch

from condense.data.images import Dataset


def version() -> str:
    """The installed version of condensekit, or `source` if it runs from an uninstalled checkout.

    >>> isinstance(version(), str)
    True
    """
    try:
        return installed("condensekit")
    except PackageNotFoundError:
        return "source"


def provenance(dataset: Dataset, **facts: Any) -> dict[str, Any]:
    """Versions, the name and fingerprint of the dataset, and the given facts.

    It contains no times, so that equal runs give equal files.

    >>> from condense import load_dataset
    >>> origin = provenance(load_dataset("digits"), method="random", seed=0)
    >>> origin["dataset"]["name"], origin["method"]
    ('digits', 'random')
    """
    return {
        "condensekit": version(),
        "torch": torch.__version__,
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        **facts,
    }
