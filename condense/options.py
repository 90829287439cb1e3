"""What the commands share: their common options, the dataset these name, and how facts are printed."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from condense.data.catalogue import Source
from condense.errors import UserError, unknown

Decorator = Callable[..., Any]


def options(*decorators: Decorator) -> Decorator:
    """Several options as one decorator, in this order in the help."""

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return wrap


def _config(context: click.Context, option: click.Parameter, path: str | None) -> None:
    """Take the command's defaults from a TOML file: its keys are the flags, with `-` or `_`."""
    if path is None:
        return
    try:
        given = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path}: {error}") from None
    known = {name: name for param in context.command.params if (name := param.name)}
    known |= {
        flag.lstrip("-").replace("-", "_"): param.name
        for param in context.command.params
        for flag in param.opts
        if param.name
    }
    defaults = {}
    for key, value in given.items():
        if key.replace("-", "_") not in known:
            raise unknown(f"key in {path}", key, sorted(known))
        defaults[known[key.replace("-", "_")]] = value
    context.default_map = {**(context.default_map or {}), **defaults}


place_options = options(
    click.option("--data-dir", type=click.Path(), help="Folder the named datasets are found in."),
    click.option(
        "--resolution",
        type=int,
        help="Side in pixels to which images are resized and centre-cropped.",
    ),
    click.option("--download", is_flag=True, help="Fetch a missing dataset into --data-dir."),
)
data_options = options(
    click.option(
        "--dataset", help="Name (see `data --list`), folder:PATH, or a MedMNIST-style .npz file."
    ),
    click.option(
        "--hold-out",
        default=0,
        help="Use this many training images as the test set: for making choices.",
    ),
    place_options,
)
config_option = click.option(
    "--config",
    is_eager=True,
    expose_value=False,
    callback=_config,
    type=click.Path(),
    help="TOML file with any of these flags.",
)
seed_option = click.option(
    "--seed", default=0, show_default=True, help="Every random number follows from it."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, for machines."
)


def find_source(
    dataset: str | None, data_dir: str | None, resolution: int | None, hold_out: int = 0
) -> Source:
    """The dataset that the options name."""
    if dataset is None:
        raise UserError(
            "--dataset is missing: name one (see `data --list`), or folder:PATH, or a .npz file"
        )
    return Source(name=dataset, data_dir=data_dir, resolution=resolution, hold_out=hold_out)


def pairs(settings: tuple[str, ...]) -> dict[str, str]:
    """What `--set KEY=VALUE` says, given any number of times."""
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set {setting}: it must be KEY=VALUE")
    return dict(setting.split("=", 1) for setting in settings)


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as one JSON document, or a line each."""
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        text = json.dumps(value) if isinstance(value, dict | list | tuple) else value
        click.echo(f"{key:<16} {text}")
