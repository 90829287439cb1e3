"""The images that stand for the classes of a step: made once, kept in a folder named by their content.

A class condensed with per-image normalisation, or drawn at random, depends on no other class. Its memory is then the
same whatever the order of the classes, and one condensation of all classes serves every order and number of steps.
What does join classes (BatchNorm; a pool of trained networks; herding and k-center, whose embedding is one) is made
step by step, of the images of the step's classes alone.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch

from condense.data.catalogue import Source
from condense.data.images import Dataset, Images
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.methods import METHODS, Matching
from condense.methods.base import Recipe
from condense.methods.recipes import RECIPES, published_as, recipe_for
from condense.methods.selection import SELECTIONS
from condense.networks.accelerate import joins_images
from condense.networks.build import build
from condense.runs.shelf import Made, Selection, Shelf
from condense.sets.condensed import CondensedSet
from condense.sets.provenance import check_belongs
from continual.orders import of_classes

FEATURE_EPOCHS = 20
"""Passes over a step's images for the network behind herding, k-center and forgetting: a baseline's, not a starting point's.

With four classes of CIFAR-100 they are 160 gradient steps, and enough: see docs/continual.md.
"""


@dataclass(frozen=True, kw_only=True)
class Online:
    """Condense the classes of an experience when it comes, from its training images alone.

    Interrupted, the same experience goes on where it stopped; met again, it is not condensed again.
    """

    shape: tuple[int, int, int]
    """(ch, H, W) of the stream's images."""
    preprocess: Preprocess
    """What the stream's evaluation transform does to pixels."""
    folder: str | Path
    """Where the condensations are kept."""
    ipc: int = 20
    """Images a class."""
    recipe: str | Recipe = "paper"
    """A recipe, or the name of one."""
    dataset_name: str = "stream"
    """For a named recipe: the dataset's name. Digits are not mirrored."""
    steps: int | None = None
    """Budget in steps; None is the recipe's."""
    seconds: float | None = None
    """Budget in seconds for an experience, in place of `steps`; measured on the first few steps."""
    seed: int = 0
    device: str = "auto"
    quiet: bool = True

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UserError(
                "an online condensation has a budget of `steps` or of `seconds`: give one of them"
            )
        if self.seconds is not None and self.seconds <= 0:
            raise UserError(f"a budget of {self.seconds} seconds: it must be above 0")

    def condense(self, images: Images) -> CondensedSet:
        """`ipc` images of each class of `images`, the training images of one experience."""
        dataset = Dataset(
            self.dataset_name, images, images.subset(torch.arange(0))
        )  # nothing to test on, on purpose
        recipe = self.recipe
        if isinstance(recipe, str):
            recipe = recipe_for(recipe, self.dataset_name, self.shape, self.ipc).override(
                {"preprocess": self.preprocess.name}
            )
        if self.steps is not None:
            recipe = recipe.override({"steps": self.steps})
        shelf = Shelf(
            folder=Path(self.folder),
            preprocess=self.preprocess,
            device=self.device,
            quiet=self.quiet,
        )
        made = Made(source=Source(name=dataset.name), ipc=self.ipc, seed=self.seed, how=recipe)
        return shelf.made(made, dataset, seconds=self.seconds)


def parse(
    method: str, dataset: Dataset, ipc: int, steps: int | None
) -> Recipe | CondensedSet | Selection:
    """What `method` means: a selection, a recipe, or the set in a file.

    `NAME` or `NAME:key=value,...`, NAME a selection, a recipe or a method, as published; the settings are the recipe's.
    Or the path of a set, whose classes must be those of `dataset`, all there.
    """
    if method in SELECTIONS:
        return Selection(method=method, feature_epochs=FEATURE_EPOCHS)
    if Path(method).suffix == ".safetensors" or Path(method).is_dir():
        return _whole(Path(method), dataset)
    name, _, text = method.partition(":")
    if name not in METHODS and name not in RECIPES:
        raise unknown("method", name, sorted({*SELECTIONS, *METHODS, *RECIPES, "FILE.safetensors"}))
    recipe = recipe_for(
        published_as(name) if name in METHODS else name, dataset.name, dataset.shape, ipc
    )
    settings = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    return recipe.override(
        {"preprocess": "standard", **({"steps": steps} if steps is not None else {}), **settings}
    )


def memories(
    how: Recipe | CondensedSet | Selection,
    dataset: Dataset,
    groups: Sequence[Sequence[int]],
    shelf: Shelf,
    *,
    ipc: int,
    seed: int = 0,
) -> list[CondensedSet]:
    """The memory of each group of classes, with the labels and class names of `dataset`."""
    if isinstance(how, CondensedSet):
        return [of_set(how, group) for group in groups]
    made = Made(source=Source(name=dataset.name), ipc=ipc, seed=seed, how=how)
    if separable(how, dataset):
        whole = shelf.made(made, dataset)
        return [of_set(whole, group) for group in groups]
    parts = [sorted(group) for group in groups]
    return [
        _relabelled(shelf.made(made, of_classes(dataset, part)), dataset, part) for part in parts
    ]


def separable(how: Recipe | Selection, dataset: Dataset) -> bool:
    """Whether the images made for a class depend on that class alone."""
    if isinstance(how, Selection):
        return how.method == "random"
    if not isinstance(how.method, Matching):
        return False
    joint = joins_images(build(how.network, dataset.shape, len(dataset.classes)))
    return (
        not joint and how.init in ("random", "noise") and not how.pool
    )  # which is trained on all classes


def of_set(condensed: CondensedSet, classes: Sequence[int]) -> CondensedSet:
    """The part of a set that belongs to `classes`; labels and class names stay."""
    kept = torch.isin(condensed.class_of(), torch.tensor(classes))
    return dataclasses.replace(
        condensed, images=condensed.images[kept], labels=condensed.labels[kept]
    )


def union(sets: Sequence[CondensedSet]) -> CondensedSet:
    """All images of several sets."""
    return reduce(CondensedSet.merge, sets)


def quantised(condensed: CondensedSet) -> CondensedSet:
    """The set after it was stored as uint8 pixels and read again."""
    return dataclasses.replace(condensed, images=condensed.preprocess.apply(condensed.pixels()))


def _relabelled(part: CondensedSet, dataset: Dataset, classes: Sequence[int]) -> CondensedSet:
    """A set that was made of some classes alone, with the labels of the whole dataset."""
    facts = part.provenance | {
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "only": list(classes),
    }
    if part.soft:
        labels = torch.zeros(len(part), len(dataset.classes))
        labels[:, list(classes)] = part.labels
    else:
        labels = torch.tensor(classes)[part.labels]
    return dataclasses.replace(part, labels=labels, classes=dataset.classes, provenance=facts)


def _whole(path: Path, dataset: Dataset) -> CondensedSet:
    condensed = CondensedSet.load(path)
    try:
        check_belongs(condensed, dataset)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if absent := [
        dataset.classes[c] for c in (condensed.counts() == 0).nonzero().flatten().tolist()
    ]:
        raise UserError(
            f"{path} has no images of {', '.join(absent[:5])}: give a set of all {len(dataset.classes)} classes"
        )
    return condensed
