"""Warnings about choices that measurements speak against; each is a line on stderr."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from condense.methods.base import Recipe
    from condense.sets.condensed import CondensedSet

_MADE = ("recipe", "method", "dataset")
"""What of a set's provenance sets of one kind have in common."""
_WHITENED = (
    "is no better than random images for networks with batch norm, such as {names}: "
    "condense with `--preprocess standard` for them"
)


def of_recipe(recipe: "Recipe") -> list[str]:
    """What speaks against a recipe.

    >>> from condense import recipe_for
    >>> of_recipe(recipe_for("best", "cifar10", (3, 32, 32), 10))
    []
    >>> [line] = of_recipe(recipe_for("paper", "cifar10", (3, 32, 32), 10))
    >>> line[:40]
    'with a loss scale of 1, DataDAM hardly m'
    """
    method = recipe.to_json()["method"]
    if method["name"] == "datadam" and method["loss_scale"] == 1:
        return [
            "with a loss scale of 1, DataDAM hardly moves the pixels in the steps of this recipe: "
            "`--recipe datadam` multiplies the loss by 100, as the published code does, and "
            "`--recipe best` (the default) is measured as better still"
        ]
    return []


def of_networks(sets: "list[CondensedSet]", networks: tuple[str, ...]) -> list[str]:
    """What speaks against training these networks on the sets.

    >>> of_networks([], ("resnet18-bn",))
    []
    """
    from condense.networks.accelerate import joins_images
    from condense.networks.build import build

    whitened = [one for one in sets if one.preprocess.name == "zca"]
    if not whitened:
        return []
    shape, classes = whitened[0].shape, len(whitened[0].classes)
    names = [name for name in networks if joins_images(build(name, shape, classes))]
    text = f"a whitened set {_WHITENED.format(names=', '.join(names))}"
    return [text] if names else []


def of_sets(sets: "list[CondensedSet]") -> list[str]:
    """What speaks against one interval over these sets.

    >>> of_sets([])
    []
    """
    made = [
        {name: of for name, of in one.provenance.items() if name in _MADE} | {"images": len(one)}
        for one in sets
    ]
    if all(one == made[0] for one in made):
        return []
    return [
        "these sets are not of one kind (they differ in more than their seed): evaluate each "
        "alone, and see `condensekit report` for all of them side by side"
    ]


def warn(lines: list[str]) -> None:
    """Print each line as a warning.

    >>> warn([])
    """
    for line in lines:
        click.echo(f"warning: {line}", err=True)
