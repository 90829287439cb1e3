"""What is read from the file of another tool, and what a file says of the set in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.data.preprocess import from_state
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.settings import within


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a file, or several, hold of a set.

    >>> Read(images=torch.zeros(1, 1, 8, 8), labels=torch.tensor([0]), files=[]).own
    {}
    """

    images: Tensor
    """[N, ch, H, W], uint8 pixels or preprocessed floats."""
    labels: Tensor
    """[N], or soft ones [N, C]."""
    files: list[Path]
    names: tuple[str, ...] | None = None
    """The names of the classes in the order of the labels, where the files have them."""
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    """The published accuracies, by the name of the network."""
    own: dict[str, Any] = field(default_factory=dict)
    """What only our own exports have: see `facts_of`."""


def facts_of(condensed: CondensedSet) -> dict[str, Any]:
    """What a file must say of its set, besides images and labels, so that networks can be tested.

    Text and tensors by name: classes and provenance as JSON, the name of the preprocessing, and the
    tensors of it.

    >>> from condense import CondensedSet
    >>> facts = facts_of(CondensedSet.load("cifar10-ipc1-best"))
    >>> sorted(facts)
    ['classes', 'preprocess', 'preprocess.mean', 'preprocess.std', 'provenance']
    """
    preprocess = condensed.preprocess
    return {
        "classes": json.dumps(condensed.classes),
        "preprocess": preprocess.name,
        "provenance": json.dumps(condensed.provenance),
        **{f"preprocess.{name}": value for name, value in preprocess.state().items()},
    }


def whole(path: Path, read: Read) -> CondensedSet:
    """The set in a file that says all of it, as `facts_of` does.

    Raises `UserError` for a file that does not, or that is damaged.

    >>> whole(Path("a.pt"), Read(images=torch.zeros(0), labels=torch.zeros(0), files=[]))
    Traceback (most recent call last):
    condense.errors.UserError: a.pt does not say how its images were preprocessed: ...
    """
    if "preprocess" not in read.own:
        raise UserError(
            f"{path} does not say how its images were preprocessed: import it first, by "
            "`condensekit import --preprocess NAME --dataset NAME`"
        )
    with within(str(path)):
        try:
            classes, provenance = (json.loads(_text(read.own[key])) for key in _JSON)
            preprocess = from_state(_text(read.own["preprocess"]), _state(read.own))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"it is damaged ({error})") from None
        if not (isinstance(classes, list) and isinstance(provenance, dict)):
            raise UserError("it is damaged (its classes or its provenance are not as written)")
        images = preprocess.apply(read.images) if read.images.dtype == torch.uint8 else read.images
        classes = tuple(map(str, classes))
        return CondensedSet(images, read.labels, classes, preprocess, provenance)


def dataset_of(condensed: CondensedSet) -> str:
    """The name of the dataset that a set was made from, as far as its provenance says.

    >>> dataset_of(CondensedSet.load("cifar10-ipc1-best"))
    'cifar10'
    """
    (first, *_) = condensed.provenance.get("merged", [condensed.provenance])
    origin = first.get("dataset", "")
    return str(origin.get("name", "") if isinstance(origin, dict) else origin) or "unknown dataset"


_JSON = ("classes", "provenance")


def _state(own: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name.removeprefix("preprocess."): torch.as_tensor(value)
        for name, value in own.items()
        if name.startswith("preprocess.")
    }


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.item()
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of text")
    return value
