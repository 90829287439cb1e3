"""The provenance of a set in plain JSON, and whether a set fits a dataset and other sets.

The provenance holds versions, the dataset, and how the set was made.
"""

from collections.abc import Sequence
from typing import Any

import torch

from condense.data.images import Dataset
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.version import version


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
        "dataset": {"name": dataset.called, "fingerprint": dataset.fingerprint},
        **facts,
    }


def check_belongs(condensed: CondensedSet, dataset: Dataset) -> None:
    """Raise `UserError` unless `condensed` can have been made from `dataset`.

    Classes, image shape and recorded origin have to fit. What a set does not record, such as the
    content of the dataset of an imported set, is not checked.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> images = digits.train.subset(torch.arange(5))
    >>> standard, origin = make_preprocess("standard", digits), provenance(digits)
    >>> few = CondensedSet(
    ...     standard.apply(images.pixels), images.labels, digits.classes, standard, origin
    ... )
    >>> check_belongs(few, digits)
    >>> check_belongs(few, digits.hold_out(100, seed=0))
    Traceback (most recent call last):
    condense.errors.UserError: the set was made from digits with content ...
    """
    own = "choose its own dataset"
    for what, theirs, ours, remedy in (
        ("classes", condensed.classes, dataset.classes, own),
        ("images of shape", condensed.shape, dataset.shape, own + _size(condensed, dataset)),
    ):
        if theirs != ours:
            raise UserError(
                f"the set has {what} {_short(theirs)}, dataset {dataset.name} has {_short(ours)}: "
                + remedy
            )
    for part in condensed.provenance.get("merged", [condensed.provenance]):
        origin = part.get("dataset")
        if isinstance(origin, dict) and origin["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"the set was made from {origin['name']} with content {origin['fingerprint']}, "
                f"and {dataset.name} here has content {dataset.fingerprint}: "
                "evaluate it on the dataset, and the split, it was made from"
            )
        fitted = part.get("preprocess", condensed.preprocess.fingerprint)
        if fitted != condensed.preprocess.fingerprint:
            raise UserError(
                f"the set was made under preprocessing {fitted} and now carries "
                f"{_preprocess(condensed)}: its images mean nothing under another one; "
                "condense again or restore the file"
            )


def check_same_preprocess(sets: Sequence[CondensedSet]) -> None:
    """Raise `UserError` unless all sets carry the same preprocessing.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> images = digits.train.subset(torch.arange(5))
    >>> sets = [
    ...     CondensedSet(kind.apply(images.pixels), images.labels, digits.classes, kind, {})
    ...     for kind in (make_preprocess("standard", digits), make_preprocess("zca", digits))
    ... ]
    >>> check_same_preprocess(sets)
    Traceback (most recent call last):
    condense.errors.UserError: set 1 is preprocessed by standard ..., set 2 by zca ...
    """
    for number, condensed in enumerate(sets):
        if condensed.preprocess.fingerprint != sets[0].preprocess.fingerprint:
            raise UserError(
                f"set 1 is preprocessed by {_preprocess(sets[0])}, "
                f"set {number + 1} by {_preprocess(condensed)}: several sets make one score only "
                "under one preprocessing; evaluate them one by one"
            )


def _size(condensed: CondensedSet, dataset: Dataset) -> str:
    """What else can be done if only the size differs: the dataset is loaded at another size."""
    channels, height, width = condensed.shape
    if channels != dataset.shape[0] or height != width:
        return ""
    return f", or load this one at the size of the set (--resolution {height})"


def _preprocess(condensed: CondensedSet) -> str:
    return f"{condensed.preprocess.name} {condensed.preprocess.fingerprint}"


def _short(values: tuple[Any, ...]) -> str:
    """The values, or the first few of many."""
    text = ", ".join(map(str, values[:10]))
    return f"({text}{f', ... {len(values)} in all' if len(values) > 10 else ''})"
