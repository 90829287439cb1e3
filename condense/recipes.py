"""Recipes: every hyperparameter of a condensation, by name, in one object that is saved with each result.

`paper` and `official-code` are two different things: the DataDAM paper and the code its authors published disagree
on the power, the scale, the batch, the normalisation and the number of steps (docs/protocols.md). Neither is silently corrected.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from condense.augment import dsa_for
from condense.errors import UserError, unknown
from condense.methods import DM, METHODS, DataDAM, Method
from condense.methods.base import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a set is condensed, whatever the dataset. Everything here changes the result; nothing else may, but the seed."""

    name: str
    """The named recipe this one started from."""
    method: Method
    """What is matched, with its own hyperparameters."""
    network: str = "convnet"
    """Network whose random initialisations are matched under; see `condense.networks`."""
    real_batch: int = 256
    """Real images of each class in a step."""
    steps: int = 8000
    """Steps, each under a freshly initialised network."""
    lr: float = 1.0
    """Learning rate of the pixels (SGD, no decay, no schedule)."""
    momentum: float = 0.5
    """Momentum of the pixels, in [0, 1)."""
    init: str = "random"
    """Starting images: a selection of real ones (`random`, `kcenter`, ...) or `noise`."""
    preprocess: str = "standard"
    """`standard` or `zca`; the set is stored and evaluated under it."""
    augment: str = "dsa"
    """Siamese augmentation, the same for real and synthetic images of a class."""
    formation: int = 1
    """f: each stored image is a mosaic of f x f, enlarged before they are matched and trained on (IDC's multi-formation)."""
    pool: int = 0
    """Networks trained on the real images; a step matches under a point of one's training. 0: under random networks."""
    pool_steps: int = 800
    """Steps each of them is trained for, on 64 real images each."""
    pool_from: float = 0.0
    """Where on the way from a network's first to its last weights the points that are matched under begin, in [0, 1]."""
    pool_to: float = 1.0
    """Where they end."""
    calibration: float = 0.0
    """Weight of the cross-entropy of the synthetic images under the pool's network, for methods that match its embedding."""
    soft_labels: bool = False
    """Whether the finished images are labelled by the pool's networks: half hard, half their mean answer."""

    def __post_init__(self) -> None:
        require("real_batch", self.real_batch, self.real_batch >= 1, "1 or more")
        require("steps", self.steps, self.steps >= 0, "0 or more")
        require("lr", self.lr, self.lr > 0, "above 0")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("formation", self.formation, self.formation >= 1, "1 or more")
        require("pool", self.pool, self.pool >= 0, "0 or more")
        require("pool_steps", self.pool_steps, self.pool_steps >= 1, "1 or more")
        require("pool_to", self.pool_to, self.pool_to <= 1, "1 or less")
        require("pool_from", self.pool_from, 0 <= self.pool_from <= self.pool_to, f"in [0, {self.pool_to}], where `pool_to` ends")
        require("calibration", self.calibration, self.calibration >= 0, "0 or more")
        calibrates = self.pool > 0 and isinstance(self.method, DataDAM | DM)
        labels = isinstance(self.soft_labels, bool) and (self.pool > 0 or not self.soft_labels)
        require("soft_labels", self.soft_labels, labels, "false, or with a pool true")
        require("calibration", self.calibration, not self.calibration or calibrates, "0, but for datadam and dm with a pool")

    def to_json(self) -> dict[str, Any]:
        """All hyperparameters; `from_json` reads it back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"method": {"name": self.method_name, **dataclasses.asdict(self.method)}}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_json` described. A field this version does not know is a `UserError`."""
        method = dict(fields["method"])
        return cls(**{**fields, "method": replaced(_method(method.pop("name"))(), method)})

    @property
    def method_name(self) -> str:
        """The method's name in `METHODS`."""
        return next(name for name, kind in METHODS.items() if kind is type(self.method))

    def override(self, changes: Mapping[str, Any]) -> "Recipe":
        """This recipe with some fields changed, its own or its method's; text is read as the field's type."""
        own = {field.name for field in dataclasses.fields(self)} - {"name", "method"}
        theirs = {field.name for field in dataclasses.fields(self.method)}  # type: ignore[arg-type]
        for key in changes:
            if key not in own | theirs:
                raise unknown(f"setting of {self.method_name}", key, sorted(own | theirs))
        method = replaced(self.method, {key: value for key, value in changes.items() if key in theirs})
        return dataclasses.replace(replaced(self, {key: value for key, value in changes.items() if key in own}), method=method)


def _method(name: str) -> Any:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def resolve(name: str, dataset_name: str, shape: tuple[int, int, int], ipc: int, *, method: str | None = None) -> Recipe:
    """The named recipe for a dataset of images `shape` (ch, H, W) and `ipc` images per class.

    `method` puts another method, with its own published hyperparameters, under the recipe's other settings.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe = RECIPES[name](dataset_name, shape, ipc)
    if method is not None and method != recipe.method_name:
        kind = _method(method)
        theirs = {field.name for field in dataclasses.fields(kind)}
        published = {key: value for key, value in kind.published(dataset_name, shape, ipc).items() if key in theirs}
        recipe = dataclasses.replace(recipe, method=kind(**published))
    return dataclasses.replace(recipe, augment=dsa_for(dataset_name)) if recipe.augment == "dsa" else recipe


def recipe_for(method: str) -> str:
    """The name of the recipe that is a method as published."""
    return "paper" if _method(method) is DataDAM else method


def _published(name: str, method: str, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """A method as its authors published it."""
    kind = _method(method)
    return Recipe(name=name, method=kind()).override(kind.published(dataset_name, shape, ipc))


def _official_code(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """What the published DataDAM code does by default: BatchNorm, power 1, both terms times 100."""
    return Recipe(
        name="official-code",
        method=DataDAM(power=1.0, loss_scale=100.0, task_balance=0.01),
        network="convnet-d3-batch",
        real_batch=64,
        steps=20_000,
        lr=1.0 if ipc <= 50 else 10.0,
    )


def _best(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """The paper's at the scale of the published code, on mosaics, under partly trained networks that also calibrate.

    Chosen on held-out images among what later work added (docs/tables.md).
    """
    recipe = Recipe(name="best", method=DataDAM(loss_scale=100.0), formation=2, pool=3, pool_steps=300, calibration=10.0)
    return recipe.override(DataDAM.published(dataset_name, shape, ipc))


RECIPES: dict[str, Callable[[str, tuple[int, int, int], int], Recipe]] = {
    **{recipe_for(method): partial(_published, recipe_for(method), method) for method in METHODS},
    "official-code": _official_code,
    "best": _best,
}


def replaced(config: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass with `changes`, each read as its field's type: text, as of a command line, is read as JSON."""
    kinds = get_type_hints(type(config))
    for key in changes:
        if key not in kinds:
            raise unknown("setting", key, kinds)
    return dataclasses.replace(config, **{key: _read(key, value, kinds[key]) for key, value in changes.items()})


def _read(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`; text is read as JSON where the field is no text."""
    if kind is not str and isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError):  # the text of a Literal: checked by the dataclass itself
            value = json.loads(value)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise UserError(f"`{name}` is {value!r}: it must be a whole number")
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"`{name}` is {value!r}: it must be a number")
        return float(value)
    return tuple(value) if isinstance(value, list) else value
