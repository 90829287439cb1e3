"""Recipes: all hyperparameters of a condensation in one named object, saved with each result.

`paper` and `official-code` differ: the DataDAM paper and the code that its authors published
disagree on the power, the scale, the batch, the normalisation and the number of steps
(docs/protocols.md). Both are reproduced as they are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from condense.data.augment import dsa_for
from condense.errors import unknown
from condense.methods import METHODS, DataDAM, Method
from condense.methods.base import Recipe
from condense.settings import replaced


def _method(name: str) -> type[Method]:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def recipe_for(
    name: str,
    dataset_name: str,
    shape: tuple[int, int, int],
    ipc: int,
    *,
    method: str | None = None,
) -> Recipe:
    """The recipe called `name` for a dataset of images of `shape` (ch, H, W).

    `ipc` is the number of images per class. `method` replaces the method of the recipe, with its
    own published hyperparameters; the other settings of the recipe stay. Raises `UserError` for an
    unknown recipe or method.

    >>> recipe = recipe_for("dm", "mnist", (1, 28, 28), ipc=10)
    >>> recipe.steps, recipe.augment
    (20000, 'dsa-noflip')
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe = RECIPES[name](dataset_name, shape, ipc)
    if method is not None and method != recipe.method.name:
        kind = _method(method)
        theirs = {field.name for field in dataclasses.fields(kind)}
        published = {
            key: value
            for key, value in kind.published(dataset_name, shape, ipc).items()
            if key in theirs
        }
        recipe = dataclasses.replace(recipe, method=kind(**published))
    return (
        dataclasses.replace(recipe, augment=dsa_for(dataset_name))
        if recipe.augment == "dsa"
        else recipe
    )


def published_as(method: str) -> str:
    """The name of the recipe that reproduces a method as published.

    >>> published_as("datadam"), published_as("dm")
    ('paper', 'dm')
    """
    return "paper" if _method(method) is DataDAM else method


def from_json(fields: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_json` described.

    Raises `UserError` for a field that this version does not know.

    >>> recipe = recipe_for("dm", "mnist", (1, 28, 28), ipc=10)
    >>> from_json(recipe.to_json()) == recipe
    True
    """
    method = dict(fields["method"])
    return Recipe(**{**fields, "method": replaced(_method(method.pop("name"))(), method)})


def _published(
    name: str, method: str, dataset_name: str, shape: tuple[int, int, int], ipc: int
) -> Recipe:
    """A method as its authors published it."""
    kind = _method(method)
    return Recipe(name=name, method=kind()).override(kind.published(dataset_name, shape, ipc))


def _official_code(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """The defaults of the published DataDAM code: BatchNorm, power 1, both terms times 100."""
    return Recipe(
        name="official-code",
        method=DataDAM(power=1.0, loss_scale=100.0, task_balance=0.01),
        network="convnet-d3-batch",
        real_batch=64,
        steps=20_000,
        lr=1.0 if ipc <= 50 else 10.0,
    )


def _best(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """The settings of the paper at the scale of its code, with additions from later work.

    These are mosaics and partly trained networks, which also calibrate the images. They were chosen
    on held-out images (docs/tables.md).
    """
    recipe = Recipe(
        name="best",
        method=DataDAM(loss_scale=100.0),
        formation=2,
        pool=3,
        pool_steps=300,
        calibration=10.0,
    )
    return recipe.override(DataDAM.published(dataset_name, shape, ipc))


RECIPES: dict[str, Callable[[str, tuple[int, int, int], int], Recipe]] = {
    **{
        published_as(method): partial(_published, published_as(method), method)
        for method in METHODS
    },
    "official-code": _official_code,
    "best": _best,
}
"""The recipes by name; each is made for a dataset name, an image shape and images per class."""
