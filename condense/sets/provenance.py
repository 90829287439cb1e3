"""Where a set came from, in plain JSON: versions, dataset, and what the maker adds."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

import torch

from condense.data.images import Dataset


def version() -> str:
    """The installed version of condensekit, or `source` where it runs from a checkout that is not installed."""
    try:
        return installed("condensekit")
    except PackageNotFoundError:
        return "source"


def provenance(dataset: Dataset, **facts: Any) -> dict[str, Any]:
    """Versions, the dataset's name and fingerprint, and the given facts. No times: equal runs give equal files."""
    return {
        "condensekit": version(),
        "torch": torch.__version__,
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        **facts,
    }
