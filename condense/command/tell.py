"""`condensekit data` and `recipes`: what there is to work with."""

from dataclasses import dataclass

import click

from condense.command.shared import Data, Printed, recipe_rows, show_facts, show_rows
from condense.options import Command, Heading, Part
from condense.settings import at_least
from condense.words import counted

_CIFAR10 = ("cifar10", (3, 32, 32))
"""What recipes are resolved for unless another dataset is named; needs no files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query(Printed):
    """What is asked of the datasets.

    >>> Query(list=True).verify
    False
    """

    list: bool = False
    """List the datasets known by name."""
    verify: bool = False
    """Check that a dataset is there and whole."""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "query": Part(kind=Query, heading=Heading.OUTPUT),
    },
)
def data(data: Data, query: Query) -> None:
    """List, check or describe datasets."""
    from condense.data.catalogue import DATASETS, verify

    if query.list or data.dataset is None:
        show_facts(DATASETS, query.json)
        return
    if query.verify:
        source = data.source()
        for line in verify(source.name, source.data_dir, resolution=source.resolution):
            click.echo(line)
        return
    real = data.load()
    counts = real.train.counts()
    facts = {
        "name": real.name,
        "shape": real.shape,
        "classes": len(real.classes),
        "train": len(real.train),
        "test": len(real.test),
        "smallest class": int(counts.min()),
        "largest class": int(counts.max()),
        "fingerprint": real.fingerprint,
    }
    show_facts(facts, query.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """For how many images a recipe is resolved.

    >>> Resolved().ipc
    10
    """

    ipc: int = 10
    """Images per class."""

    def __post_init__(self) -> None:
        at_least(1, self, "ipc")


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT, defaults={"dataset": _CIFAR10[0]}),
        "amount": Part(kind=Resolved, heading=Heading.WHAT),
        "output": Part(kind=Printed, heading=Heading.OUTPUT),
    },
)
@click.argument("name", required=False)
def recipes(name: str | None, data: Data, amount: Resolved, output: Printed) -> None:
    """List the recipes and methods, or print every setting of one.

    \b
    condensekit recipes
    condensekit recipes best
    condensekit recipes dsa --dataset digits --ipc 2
    """
    from condense.methods.recipes import description, recipe_for

    if name is None:
        _list_recipes(output.json)
        return
    if data.dataset == _CIFAR10[0] and data.resolution is None:
        dataset_name, shape = _CIFAR10
    else:
        real = data.load()
        dataset_name, shape = real.name, real.shape
    recipe = recipe_for(name, dataset_name, shape, amount.ipc)
    if output.json:
        show_facts(recipe.to_json(), as_json=True)
        return
    click.echo(f"{name} for {dataset_name}, {counted(amount.ipc, 'image')} per class\n")
    for paragraph in description(name):
        click.echo(click.wrap_text(paragraph, width=80) + "\n")
    show_rows(recipe_rows(recipe))


def _list_recipes(as_json: bool) -> None:
    """Print all recipes, and the methods that are recipes as published, with a sentence each."""
    from condense.methods import METHODS
    from condense.methods.recipes import RECIPES, published_as, summary

    published = {name for name in METHODS if published_as(name) == name}
    methods = {name: summary(name) for name in RECIPES if name in published}
    others = {name: summary(name) for name in RECIPES if name not in published}
    if as_json:
        show_facts({"recipes": others, "methods": methods}, as_json=True)
        return
    show_rows(
        {
            "Recipes (--recipe)": [*others.items()],
            "Methods (--method), each with its authors' settings": [*methods.items()],
        }
    )
