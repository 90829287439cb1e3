"""Recipes: all hyperparameters of a condensation in one named object, saved with each result.

`paper` and `official-code` differ: the DataDAM paper and the code that its authors published
disagree on the power, the scale, the batch, the normalisation and the number of steps
(docs/protocols.md). Both are reproduced as they are.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

from condense.data.augment import suited
from condense.data.preprocess import PUBLISHED
from condense.errors import unknown
from condense.methods import DM, METHODS, DataDAM, Method
from condense.methods.base import Recipe
from condense.settings import read_value


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
        published = kind.published(dataset_name, shape, ipc)
        theirs = {field.name for field in dataclasses.fields(kind)} & published.keys()
        recipe = dataclasses.replace(recipe, method=kind(**{key: published[key] for key in theirs}))
    return dataclasses.replace(recipe, augment=suited(recipe.augment, dataset_name))


resolve = recipe_for
"""The name that `recipe_for` had before."""


def published_as(method: str) -> str:
    """The name of the recipe that reproduces a method as published.

    >>> published_as("datadam"), published_as("dm")
    ('paper', 'dm')
    """
    return "paper" if _method(method) is DataDAM else method


def from_json(fields: Any) -> Recipe:
    """The recipe that `Recipe.to_json` described.

    Raises a `UserError` that names the field for one that this version does not know, one that is
    missing, and for a value that it does not accept.

    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 10)
    >>> from_json(recipe.to_json()) == recipe
    True
    """
    own = read_value(dict[str, Any], fields, "recipe")
    theirs = read_value(dict[str, Any], own.get("method"), "recipe.method")
    kind = _method(read_value(str, theirs.pop("name", None), "recipe.method.name"))
    method = read_value(kind, theirs, "recipe.method")
    return read_value(Recipe, own | {"method": method}, "recipe")


def _published(
    name: str, method: str, dataset_name: str, shape: tuple[int, int, int], ipc: int
) -> Recipe:
    """A method as its authors published it."""
    kind = _method(method)
    return Recipe(name=name, method=kind()).override(kind.published(dataset_name, shape, ipc))


def _datadam(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """DataDAM with its loss times 100, as in the code of its authors; else as in the paper.

    Taken literally, the paper's loss and rate move the pixels a hundred times less: 8,000 steps
    then hardly change the images that they start from.
    """
    recipe = Recipe(name="datadam", method=DataDAM(loss_scale=100.0))
    return recipe.override(DataDAM.published(dataset_name, shape, ipc))


def _official_code(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """The defaults of the published DataDAM code: BatchNorm, power 1, both terms times 100.

    The code judges its sets by networks with BatchNorm, too: `evaluate --network convnet-d3-batch`.
    """
    return Recipe(
        name="official-code",
        method=DataDAM(power=1.0, loss_scale=100.0, task_balance=0.01),
        network="convnet-d3-batch",
        real_batch=64,
        steps=20_000,
        lr=1.0 if ipc <= 50 else 10.0,
    )


def _best(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """What measured best for its time: DANCE's matching, with a pool and steps for two CPU cores.

    It was chosen on held-out training images (docs/results.md). Its pool is two networks of eight
    passes over CIFAR-10, where DANCE has twenty of sixty; all runs on the same data can share it.
    """
    shorter = {"real_batch": 64, "steps": 1000, "pool": 2, "pool_epochs": None, "pool_steps": 6256}
    recipe = _dance(dataset_name, shape, ipc).override(shorter)
    return dataclasses.replace(recipe, name="best")


def _dance(dataset_name: str, shape: tuple[int, int, int], ipc: int) -> Recipe:
    """DANCE: means of features under a well trained pool, calibrated, on clamped mosaics.

    Zhang et al., "DANCE: Dual-View Distribution Alignment for Dataset Condensation", IJCAI 2024,
    with the settings of its code. Its pixels are in [0, 1] and move at
    a rate of 0.01 per image of a class. Ours are standardised, x = (pixel - mean) / std, where the
    same step has the rate 0.01 / std^2 (the mean over the channels: they differ by 2 % on
    CIFAR-10). A std that no table states is taken to be 0.2.

    What differs: five networks are trained, where it trains 20 and uses five; mosaics start from
    averaged images, where it takes every second pixel; and a class's momentum acts in its own next
    steps, where there it acts in the steps of the classes that follow. The sum of the moves is the
    same. On few cores lower `steps` and `pool_epochs`.
    """
    _, deviations = PUBLISHED.get(dataset_name, (None, (0.2,)))
    variance = fmean(std**2 for std in deviations)
    return Recipe(
        name="dance",
        method=DM(),
        real_batch=128,
        steps=10_000,
        lr=0.01 * ipc / variance,
        momentum=0.5,
        augment="idc",
        formation=2,
        pool=5,
        pool_training="idc",
        pool_epochs=60,
        pool_seed=0,
        calibration=1.0,
        calibrate_under="last",
        clamp=True,
    )


RECIPES: dict[str, Callable[[str, tuple[int, int, int], int], Recipe]] = {
    **{
        published_as(method): partial(_published, published_as(method), method)
        for method in METHODS
    },
    "datadam": _datadam,
    "official-code": _official_code,
    "best": _best,
    "dance": _dance,
}
"""The recipes by name; each is made for a dataset name, an image shape and images per class."""


def summary(name: str) -> str:
    """What the recipe called `name` is, in a sentence: for a method, what its file says.

    >>> summary("dm")
    'DM: match the mean of the last features under random networks.'
    """
    return description(name)[0]


def description(name: str) -> list[str]:
    """What there is to know of the recipe called `name`, in paragraphs; of a method, the first.

    >>> print(*description("official-code"), sep="\\n")
    The defaults of the published DataDAM code: BatchNorm, power 1, both terms times 100.
    The code judges its sets by networks with BatchNorm, too: `evaluate --network convnet-d3-batch`.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    maker = RECIPES[name]
    source: Any = maker
    if isinstance(maker, partial):  # of a method's name
        source = sys.modules[METHODS[maker.args[1]].__module__]
    paragraphs = [" ".join(one.split()) for one in (inspect.getdoc(source) or "").split("\n\n")]
    return paragraphs if source is maker else paragraphs[:1]
