"""What commands share: options that several of them have, and how facts are printed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from condense.errors import UserError
from condense.options import Rows, without_backticks
from condense.settings import Setting, described

if TYPE_CHECKING:
    from condense.data.catalogue import Source
    from condense.data.images import Dataset
    from condense.methods.base import Recipe
    from condense.training.score import Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The dataset that a command works on.

    >>> Data(dataset="digits", hold_out=100).source().hold_out
    100
    """

    dataset: str | None = None
    """Name (see `data --list`), folder:PATH, hf:PATH, or a MedMNIST-style .npz file."""
    data_dir: Path | None = None
    """Folder the named datasets are found in; ./data unless given."""
    resolution: int | None = None
    """Side in pixels to which images are resized and centre-cropped."""
    hold_out: int = 0
    """Use this many training images as the test set: for making choices."""
    download: bool = False
    """Fetch a missing dataset into `--data-dir`."""

    def source(self) -> "Source":
        """Where the dataset is. Raises `UserError` where none is named."""
        from condense.data.catalogue import Source

        if self.dataset is None:
            raise UserError(
                "--dataset is missing: name one (see `data --list`), folder:PATH, hf:PATH, or a "
                ".npz file"
            )
        return Source(
            name=self.dataset,
            data_dir=None if self.data_dir is None else str(self.data_dir),
            resolution=self.resolution,
            hold_out=self.hold_out,
        )

    def load(self) -> "Dataset":
        """The dataset itself. Raises `UserError` where it is missing or damaged."""
        return self.source().load(download=self.download)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a command of one process runs on.

    >>> Device().device
    'auto'
    """

    device: str = "auto"
    """`auto`, `cpu` or `cuda`; `auto` takes a GPU where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a set goes, and how a command tells what it did.

    >>> Output(out=Path("runs/digits")).json
    False
    """

    out: Path
    """Folder for the set."""
    json: bool = False
    """Print one JSON document on stdout, for machines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """How a command that writes no files tells what it found.

    >>> Printed().json
    False
    """

    json: bool = False
    """Print one JSON document on stdout, for machines."""


def pairs(settings: tuple[str, ...]) -> dict[str, str]:
    """What `--set KEY=VALUE` says, given any number of times; a `UserError` for anything else.

    >>> pairs(("lr=0.1", "augment=none"))
    {'lr': '0.1', 'augment': 'none'}
    """
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set {setting}: it must be KEY=VALUE")
    return dict(setting.split("=", 1) for setting in settings)


def show_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as one JSON document, or a line each.

    >>> show_facts({"images": 20, "shape": (1, 8, 8)}, as_json=False)
    images           20
    shape            [1, 8, 8]
    >>> show_facts({"classes": ("K\u00e4tzchen", "\u009b31m")}, as_json=False)
    classes          ["K\u00e4tzchen", "\\u009b31m"]
    """
    if as_json:
        click.echo(_written(facts, indent=2))
        return
    for key, value in facts.items():
        click.echo(f"{key:<16} {_fact(value)}")


def _fact(value: Any) -> Any:
    """A fact as it is printed after its name: one that holds further ones takes a line for each."""
    nested = isinstance(value, dict) and any(isinstance(one, dict) for one in value.values())
    if isinstance(value, dict | list | tuple):
        return _written(value, indent=2 if nested else None)
    return value


def _written(value: Any, indent: int | None) -> str:
    """A value as JSON, in which only what a terminal would not show as it is, is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return re.sub(r"[^\n -~]", lambda one: _shown(one[0]), text)


def _shown(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def show_rows(sections: Mapping[str, Rows]) -> None:
    """Print sections of rows with two columns, as help is printed.

    >>> show_rows({"Recipes": [("best", "The best.")]})
    Recipes:
      best  The best.
    """
    formatter = click.HelpFormatter(max_width=110)
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(rows)
    click.echo(formatter.getvalue().strip())


def recipe_rows(recipe: "Recipe") -> dict[str, Rows]:
    """Every setting of a recipe and of its method, with what it means.

    >>> from condense import recipe_for
    >>> sections = recipe_rows(recipe_for("dm", "digits", (1, 8, 8), 2))
    >>> list(sections)
    ['Settings of recipe dm', 'Its method, dm']
    >>> sections["Settings of recipe dm"][1]
    ('real_batch=256', 'Real images of each class per step.')
    """
    own = [one for one in described(type(recipe)) if one.name not in ("name", "method")]
    method = recipe.method
    return {
        f"Settings of recipe {recipe.name}": _setting_rows(own, recipe),
        f"Its method, {method.name}": _setting_rows(described(type(method)), method)
        or [(method.name, "has no settings of its own")],
    }


def _setting_rows(settings: list[Setting], config: Any) -> Rows:
    return [
        (f"{setting.name}={_short(getattr(config, setting.name))}", without_backticks(setting.doc))
        for setting in settings
    ]


def _short(value: Any) -> Any:
    """A value for people; numbers keep six digits: 0.75 for 0.7499999999999998."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def show_set(folder: Path, as_json: bool) -> None:
    """Print the files that the folder of a set holds.

    >>> show_set(Path("runs"), as_json=False)
    set              runs/set.safetensors
    picture          runs/grid.png
    report           runs/report.html
    run              runs/run.json
    """
    names = {"set": "set.safetensors", "picture": "grid.png"}
    names |= {"report": "report.html", "run": "run.json"}
    show_facts({fact: str(folder / name) for fact, name in names.items()}, as_json)


def score_text(score: "Score") -> str:
    """Mean, standard deviation and interval of a score, in percent.

    >>> from condense import Score
    >>> score_text(Score((0.50, 0.52, 0.51)))
    ' 51.00 %  std 1.00  95 % interval 48.52 to 53.48'
    >>> score_text(Score((0.50,)))
    ' 50.00 %  one network: no interval'
    >>> score_text(Score((0.50, 0.50)))
    ' 50.00 %  2 networks, all alike: no interval'
    """
    if score.interval is None:
        count = len(score.accuracies)
        networks = "one network" if count == 1 else f"{count} networks, all alike"
        return f"{100 * score.mean:6.2f} %  {networks}: no interval"
    low, high = (100 * end for end in score.interval)
    return (
        f"{100 * score.mean:6.2f} %  std {100 * score.std:.2f}  "
        f"95 % interval {low:.2f} to {high:.2f}"
    )
