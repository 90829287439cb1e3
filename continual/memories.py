"""Memories: the images that stand for the classes of each step. Each is made once, on a shelf.

The condensed images of a class do not depend on other classes if the network normalises each image
by itself, and neither do images drawn at random. One condensation of all classes then serves every
class order and number of steps. Other methods join the classes: by BatchNorm, by a pool of trained
networks, or by a trained network that herding and k-center embed images with. Their memories are
made step by step, from the training images of the step's classes alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from condense.data.catalogue import Source
from condense.data.images import Dataset, Images
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.methods import METHODS, Matching
from condense.methods.base import Recipe
from condense.methods.recipes import RECIPES, from_json, published_as, recipe_for
from condense.methods.selection import SELECTIONS
from condense.networks.accelerate import joins_images
from condense.networks.build import build
from condense.runs.shelf import Made, Selection, Shelf
from condense.sets import published
from condense.sets.condensed import CondensedSet
from condense.sets.provenance import check_belongs
from continual.orders import of_classes

FEATURE_EPOCHS = 20
"""Passes over the images of a step for the network behind herding, k-center and forgetting.

As a baseline they deserve a well-trained network, unlike as starting images of a condensation. For
four classes of CIFAR-100 these are 160 gradient steps, and enough: see docs/results/continual.md.
"""


@dataclass(frozen=True, kw_only=True)
class Online:
    """A source for `continual.CondensedBuffer` that condenses each experience when it comes.

    Only the training images of the experience are used. A condensation that was interrupted goes on
    where it stopped when the same experience comes again, and one that is finished is not repeated.

    Raises `UserError` if both `steps` and `seconds` are given, and for `seconds` not above 0.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(
    ...     {"real_batch": 4, "network": "convnet-d2-w8"}
    ... )
    >>> experience = of_classes(load_dataset("digits"), (3, 8))
    >>> preprocess = make_preprocess("standard", experience)
    >>> options = {"shape": (1, 8, 8), "preprocess": preprocess, "recipe": recipe}
    >>> with TemporaryDirectory() as folder:
    ...     online = Online(folder=folder, ipc=2, steps=1, **options)
    ...     len(online.condense(experience.train))
    4
    """

    shape: tuple[int, int, int]
    """(ch, H, W) of the stream's images."""
    preprocess: Preprocess
    """The transform that the stream applies to the pixels of test images."""
    folder: str | Path
    """Where the condensations are kept."""
    ipc: int = 20
    """Images per class."""
    recipe: str | Recipe = "paper"
    """A recipe, or the name of one."""
    dataset_name: str = "stream"
    """The name of the dataset, which a named recipe depends on: digits are not mirrored."""
    steps: int | None = None
    """Steps of each condensation. None stands for those of the recipe."""
    seconds: float | None = None
    """Seconds for each condensation, instead of `steps`. The speed of its first steps decides."""
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
        # There is nothing to test on, on purpose.
        dataset = Dataset(self.dataset_name, images, images.subset(torch.arange(0)))
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
        wanted = Made(source=Source(name=dataset.name), ipc=self.ipc, seed=self.seed, how=recipe)
        return shelf.made(wanted, dataset, seconds=self.seconds)


def parse(
    method: str, dataset: Dataset, ipc: int, steps: int | None
) -> Recipe | CondensedSet | Selection:
    """What the text `method` stands for: a selection, a recipe, or the set in a file.

    It is `NAME` or `NAME:key=value,...`, where NAME is a selection, a recipe, or a method, which
    has its published settings. The settings after the colon are those of the recipe. Or it is a
    condensed set with images of all classes of `dataset`: its path, or the name of a published one.
    `steps` replaces the steps of a recipe. Raises `UserError` for unknown names and for sets of
    other datasets.

    >>> from condense import load_dataset
    >>> parse("datadam:lr=3", load_dataset("digits"), ipc=2, steps=50).lr
    3.0
    >>> parse("herding", load_dataset("digits"), ipc=2, steps=50).feature_epochs
    20
    """
    if method in SELECTIONS:
        return Selection(method=method, feature_epochs=FEATURE_EPOCHS)
    if Path(method).suffix == ".safetensors" or Path(method).is_dir() or published.is_name(method):
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
    recipe: Recipe | CondensedSet | Selection,
    dataset: Dataset,
    groups: Sequence[Sequence[int]],
    shelf: Shelf,
    *,
    ipc: int,
    seed: int = 0,
) -> list[CondensedSet]:
    """The memory of each group of classes, with the labels and class names of `dataset`.

    `recipe` is the result of `parse`. What is not on the shelf is made, with `ipc` images a class.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> with TemporaryDirectory() as folder:
    ...     shelf = Shelf(folder=Path(folder), quiet=True)
    ...     recipe, digits = Selection(method="random"), load_dataset("digits")
    ...     sets = memories(recipe, digits, [(3, 8), (1, 0)], shelf, ipc=2)
    >>> [one.labels.tolist() for one in sets]
    [[3, 3, 8, 8], [0, 0, 1, 1]]
    """
    if isinstance(recipe, CondensedSet):
        return [of_set(recipe, group) for group in groups]
    wanted = Made(source=Source(name=dataset.name), ipc=ipc, seed=seed, how=recipe)
    if separable(recipe, dataset):
        whole = shelf.made(wanted, dataset)
        return [of_set(whole, group) for group in groups]
    parts = [sorted(group) for group in groups]
    return [
        _relabelled(shelf.made(wanted, of_classes(dataset, part)), dataset, part) for part in parts
    ]


def seconds(
    recipe: Recipe | CondensedSet | Selection,
    dataset: Dataset,
    groups: Sequence[Sequence[int]],
    shelf: Shelf,
    *,
    ipc: int,
    seed: int = 0,
) -> float | None:
    """How long the memories of all groups took to make; None where that is not known.

    The parameters are those of `memories`.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import load_dataset
    >>> digits, groups = load_dataset("digits"), [(3, 8), (1, 0)]
    >>> with TemporaryDirectory() as folder:
    ...     shelf = Shelf(folder=Path(folder), quiet=True)
    ...     how = {"recipe": Selection(method="random"), "shelf": shelf, "ipc": 2}
    ...     _ = memories(dataset=digits, groups=groups, **how)
    ...     seconds(dataset=digits, groups=groups, **how) < 100
    True
    """
    if isinstance(recipe, CondensedSet):
        return None
    wanted = Made(source=Source(name=dataset.name), ipc=ipc, seed=seed, how=recipe)
    made_of = (
        [dataset]
        if separable(recipe, dataset)
        else [of_classes(dataset, sorted(group)) for group in groups]
    )
    known = [one for part in made_of if (one := shelf.seconds(wanted, part)) is not None]
    return sum(known) if len(known) == len(made_of) else None


def separable(recipe: Recipe | Selection, dataset: Dataset) -> bool:
    """Whether the images made for a class depend on that class alone.

    >>> from condense import load_dataset
    >>> digits = load_dataset("digits")
    >>> [separable(Selection(method=name), digits) for name in ("random", "herding")]
    [True, False]
    """
    return _separable(recipe, dataset.shape, len(dataset.classes))


def made_jointly(condensed: CondensedSet) -> bool:
    """Whether a set was made of several classes at once, so that each may depend on the others.

    What is not known here counts as separate: the making of an imported set, for example, or a
    network that this program cannot build, such as a function of another script.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> how = {"preprocess": make_preprocess("standard", digits), "seed": 0}
    >>> made_jointly(select("random", digits, 1, **how))
    False
    >>> made_jointly(select("herding", digits, 1, feature_epochs=1, network="mlp", **how))
    True
    """
    for facts in condensed.provenance.get("merged", [condensed.provenance]):
        how = None if "only" in facts else _how(facts)
        with suppress(UserError):  # of a network that cannot be built here
            if how and not _separable(how, condensed.shape, len(condensed.classes)):
                return True
    return False


def _how(facts: Mapping[str, Any]) -> Recipe | Selection | None:
    """How a set with this provenance was made, if it says so."""
    if "recipe" in facts:
        return from_json(facts["recipe"])
    method = facts.get("method")
    return Selection(method=method) if method in SELECTIONS else None


def _separable(recipe: Recipe | Selection, shape: tuple[int, int, int], classes: int) -> bool:
    if isinstance(recipe, Selection):
        return recipe.method == "random"
    if not isinstance(recipe.method, Matching):
        return False
    # The networks of a pool are trained on all classes.
    if recipe.pool or recipe.init not in ("random", "noise"):
        return False
    return not joins_images(build(recipe.network, shape, classes))


def of_set(condensed: CondensedSet, classes: Sequence[int]) -> CondensedSet:
    """The part of a set that belongs to `classes`. Labels and class names stay the same.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> whole = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> of_set(whole, (3, 8)).labels
    tensor([3, 8])
    """
    kept = torch.isin(condensed.class_of(), torch.tensor(classes))
    return dataclasses.replace(
        condensed, images=condensed.images[kept], labels=condensed.labels[kept]
    )


def union(sets: Sequence[CondensedSet]) -> CondensedSet:
    """All images of one or more sets.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> whole = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> union([of_set(whole, (3, 8)), of_set(whole, (1,))]).labels
    tensor([3, 8, 1])
    """
    return reduce(CondensedSet.merge, sets)


def quantised(condensed: CondensedSet) -> CondensedSet:
    """The set as it is after being stored as uint8 pixels and read again.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> whole = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> torch.allclose(quantised(whole).images, whole.images)  # real images are uint8 already
    True
    """
    return dataclasses.replace(condensed, images=condensed.preprocess.apply(condensed.pixels()))


def _relabelled(part: CondensedSet, dataset: Dataset, classes: Sequence[int]) -> CondensedSet:
    """A set that was made of some classes only, with the labels of the whole dataset."""
    facts = part.provenance | {
        "dataset": {"name": dataset.called, "fingerprint": dataset.fingerprint},
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
    missing = (condensed.counts() == 0).nonzero().flatten().tolist()
    if missing:
        names = ", ".join(dataset.classes[c] for c in missing[:5])
        raise UserError(
            f"{path} has no images of {names}: give a set of all {len(dataset.classes)} classes"
        )
    return condensed
