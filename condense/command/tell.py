"""`condensekit data`, `recipes` and `doctor`: what there is to work with."""

import os
import platform
from dataclasses import dataclass
from typing import Any

import click

from condense.command.shared import Data, Printed, show_facts, show_rows
from condense.options import Command, Heading, Part, Rows, without_backticks
from condense.settings import Setting, at_least, described
from condense.threads import PASSIVE, cores, waits_passively

_CIFAR10 = ("cifar10", (3, 32, 32))
"""What recipes are resolved for unless another dataset is named; needs no files."""
_ADVICE = (
    "threads that spin while they wait slow down everything on a shared machine: in your own "
    f"programs set {' and '.join(f'{name}={value}' for name, value in PASSIVE.items())} "
    "before torch is imported"
)


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
    from condense.methods.recipes import recipe_for

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
    own = [setting for setting in described(type(recipe)) if setting.name not in ("name", "method")]
    method = recipe.method
    show_rows(
        {
            f"{name} for {dataset_name}, {amount.ipc} images per class": _rows(own, recipe),
            f"Its method, {method.name}": _rows(described(type(method)), method)
            or [(method.name, "has no settings of its own")],
        }
    )


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


def _rows(settings: list[Setting], config: Any) -> Rows:
    return [
        (f"{setting.name}={getattr(config, setting.name)}", without_backticks(setting.doc))
        for setting in settings
    ]


@click.command(cls=Command, parts={"output": Part(kind=Printed, heading=Heading.OUTPUT)})
def doctor(output: Printed) -> None:
    """Say what this installation and this machine are, and how waiting threads behave."""
    import torch

    from condense.device import pick_device
    from condense.sets.provenance import version

    facts: dict[str, Any] = {
        "condensekit": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": pick_device("auto").type,
        "cores": cores(),
        "torch threads": torch.get_num_threads(),
    }
    facts |= {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", *PASSIVE)}
    facts |= {"threads wait passively": waits_passively(), "advice": _ADVICE}
    show_facts(facts, output.json)
