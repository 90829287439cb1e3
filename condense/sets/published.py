"""The condensed sets that come with the package: small files, each with a card that describes it.

condense/sets/shipped/NAME.safetensors   the set
condense/sets/shipped/NAME.json          its card

A name, such as `cifar10-ipc1-best`, may stand wherever the path of a set may:
`CondensedSet.load("cifar10-ipc1-best")`, `condensekit evaluate cifar10-ipc1-best`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense.errors import unknown
from condense.reading import read_json
from condense.settings import read

FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a published set is, and what was measured of it.

    >>> card = Card(
    ...     dataset="cifar10", ipc=10, recipe="best", seed=0, steps=1000, network="convnet",
    ...     protocol="dm", accuracies=(0.60, 0.62), command="condensekit condense ...",
    ...     licence="CIFAR-10 names none", measured="benchmarks/results/full/NAME.json",
    ... )
    >>> card.ipc
    10
    """

    dataset: str
    ipc: int
    """Images per class."""
    recipe: str
    seed: int
    steps: int
    """Steps of condensing."""
    network: str
    """The architecture that the accuracies are of."""
    protocol: str
    """The protocol by which networks were trained on it."""
    accuracies: tuple[float, ...]
    """On the whole test set, after the last pass; a number in [0, 1] for each network."""
    command: str
    """How it was made."""
    licence: str
    """What is known of the licence of the real images that it was made from."""
    measured: str
    """The file of the repository with the full record of the measurement."""


def cards() -> Mapping[str, Card]:
    """The card of every published set, by name, in alphabetical order.

    >>> all("-ipc" in name for name in cards())
    True
    """
    return {path.stem: _card(path) for path in sorted(FOLDER.glob("*.json"))}


def is_name(path: str | Path) -> bool:
    """Whether `path` looks like the name of a published set, and no file or folder has it.

    >>> is_name("cifar10-ipc10-best"), is_name("runs/cifar10-ipc10"), is_name("runs")
    (True, False, False)
    """
    path = Path(path)
    return len(path.parts) == 1 and "-ipc" in path.name and not path.suffix and not path.exists()


def is_there(path: str | Path) -> bool:
    """Whether something is at `path`, or it looks like the name of a published set.

    >>> is_there("cifar10-ipc1-best"), is_there("no/such/folder")
    (True, False)
    """
    return Path(path).exists() or is_name(path)


def file(name: str) -> Path:
    """The file of the set called `name`. Raises `UserError` for an unknown one.

    >>> file("cifar10-ipc1-bets")
    Traceback (most recent call last):
    condense.errors.UserError: unknown published set `cifar10-ipc1-bets`: ...
    """
    known = [path.stem for path in sorted(FOLDER.glob("*.json"))]
    if name not in known:
        raise unknown("published set", name, known)
    return FOLDER / f"{name}.safetensors"


def dataset_of(name: str) -> str:
    """The name of the dataset that the published set called `name` was made from.

    Raises `UserError` for an unknown set.

    >>> dataset_of("cifar10-ipc1-bets")
    Traceback (most recent call last):
    condense.errors.UserError: unknown published set `cifar10-ipc1-bets`: ...
    """
    return _card(file(name).with_suffix(".json")).dataset


def _card(path: Path) -> Card:
    fields: Any = read_json(path)
    return read(Card, fields, str(path))
