"""The trained networks that a run matches under: its own, or shared with other runs.

A run keeps its pool in its folder. Where it is given a folder of pools, the pool is kept there by
what it is made of, and serves every run that wants the same one: of any number of images, and if
the pool has a seed of its own, of any seed.

FOLDER/KEY/         the networks of a pool, a file each
FOLDER/KEY.lock     held by the process that trains them, while the others wait
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import torch
from filelock import FileLock

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.files import digest
from condense.methods.base import Recipe
from condense.networks.build import canonical
from condense.training.pool import Pool, train_pool, training_of
from condense.training.protocol import Protocol
from condense.writing import make_folder


def pool_of(
    dataset: Dataset,
    recipe: Recipe,
    preprocess: Preprocess,
    *,
    seed: int,
    device: torch.device,
    folder: Path | None = None,
    shared: Path | None = None,
    quiet: bool = True,
) -> Pool:
    """The pool that a recipe asks for: read as far as it is there, else trained.

    Parameters
    ----------
    seed: that of the run.
    folder: where the networks are kept; None keeps them in memory.
    shared: a folder of pools, which takes the place of `folder`.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> tiny = {"network": "convnet-d2-w8", "pool": 2, "pool_steps": 3, "pool_seed": 0}
    >>> recipe = recipe_for("best", "digits", digits.shape, ipc=1).override(tiny)
    >>> preprocess = make_preprocess("standard", digits)
    >>> where = {"device": torch.device("cpu"), "shared": Path("pools")}
    >>> pool = pool_of(digits, recipe, preprocess, seed=7, **where)
    >>> sorted(path.name for path in Path("pools").glob("*/*"))
    ['network-00.safetensors', 'network-01.safetensors']
    """
    protocol, every_pass = protocol_of(recipe, dataset), recipe.pool_points == "passes"
    origin = _origin(recipe, seed)
    turn: contextlib.AbstractContextManager = contextlib.nullcontext()
    if shared:
        folder = _place(dataset, recipe, preprocess, seed, shared)
        make_folder(shared)
        turn = FileLock(f"{folder}.lock")
    with turn:
        trained = train_pool(
            dataset, recipe.network, recipe.pool, protocol,
            preprocess=preprocess, seed=origin, device=device, folder=folder,
            every_pass=every_pass, quiet=quiet,
        )  # fmt: skip
    return Pool(trained, seed, (recipe.pool_from, recipe.pool_to), origin)


def protocol_of(recipe: Recipe, dataset: Dataset) -> Protocol:
    """How the networks of the pool are trained.

    >>> from condense import load_dataset, recipe_for
    >>> digits = load_dataset("digits")
    >>> protocol_of(recipe_for("best", "digits", digits.shape, ipc=1), digits).steps
    1380
    """
    return training_of(
        recipe.pool_training,
        len(dataset.train),
        augment=recipe.augment,
        steps=recipe.pool_steps,
        epochs=recipe.pool_epochs,
    )


def steps_of(recipe: Recipe, dataset: Dataset) -> int:
    """The number of training steps of all networks of the pool.

    >>> from condense import load_dataset, recipe_for
    >>> digits = load_dataset("digits")
    >>> steps_of(recipe_for("best", "digits", digits.shape, ipc=1), digits)
    2760
    """
    return recipe.pool * protocol_of(recipe, dataset).length(len(dataset.train))


def steps_left(
    dataset: Dataset, recipe: Recipe, preprocess: Preprocess, *, seed: int, shared: Path | None
) -> int:
    """The same for those networks that are not in the folder `shared`; arguments as of `pool_of`.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> recipe, standard = recipe_for("best", "digits", digits.shape, ipc=1), "standard"
    >>> preprocess = make_preprocess(standard, digits)
    >>> steps_left(digits, recipe, preprocess, seed=0, shared=Path("nowhere"))
    2760
    """
    there = 0
    if shared:
        files = _place(dataset, recipe, preprocess, seed, shared).glob("network-*.safetensors")
        there = min(recipe.pool, len(list(files)))
    return steps_of(recipe, dataset) // recipe.pool * (recipe.pool - there)


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with a pool of one network, trained for one step; for timing.

    >>> from condense import recipe_for
    >>> shortened(recipe_for("best", "digits", (1, 8, 8), ipc=1)).pool_steps
    1
    """
    brief = {"pool": 1, "pool_steps": 1, "pool_epochs": None}
    return recipe.override(brief) if recipe.pool else recipe


def _origin(recipe: Recipe, seed: int) -> int:
    """The seed of the pool's training: its own, or that of the run."""
    return seed if recipe.pool_seed is None else recipe.pool_seed


def _place(
    dataset: Dataset, recipe: Recipe, preprocess: Preprocess, seed: int, shared: Path
) -> Path:
    """The folder of a recipe's pool in a folder of pools."""
    protocol = protocol_of(recipe, dataset)
    name = key(dataset, recipe.network, preprocess, protocol, _origin(recipe, seed))
    return shared / (f"{name}-passes" if recipe.pool_points == "passes" else name)


def key(
    dataset: Dataset, network: str, preprocess: Preprocess, protocol: Protocol, seed: int
) -> str:
    """The name of a pool among others: a readable part and a digest of all that decides it.

    The number of networks is no part of it: a larger pool goes on from a smaller one.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> transform = make_preprocess("standard", digits)
    >>> key(digits, "convnet-d2-w8", transform, Protocol(), 0).rpartition("-")[0]
    'digits-convnet-d2-w8-instance-relu-avg'
    """
    name = canonical(network, dataset.shape)
    content = [dataset.fingerprint, dataset.classes, name, preprocess.fingerprint, seed]
    text = json.dumps([*content, dataclasses.asdict(protocol)])
    return f"{dataset.called}-{name}-{digest({}, text)[:16]}".replace("/", "-")
