"""Which recipe to use: the accuracy of sets condensed by each, against random real images.

Each recipe condenses for the same number of steps with the same real batch, so that they cost about
the same; networks are then trained on each set and tested on the whole test set, once, or with
--hold-out on held-out training images, to choose by. What is measured of a set is kept and not
measured again: a study may be stopped, and grow line by line and set by set.
"""

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from condense import (
    Protocol,
    Recipe,
    Score,
    UserError,
    evaluate,
    load_dataset,
    recipe_for,
)
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.files import read_json
from condense.report.figures import bars
from condense.runs.shelf import Made, Selection, Shelf
from condense.sets.condensed import CondensedSet

CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper, scale 100": ("paper", {"loss_scale": 100.0, "preprocess": "standard"}),
    "paper, scale 1": ("paper", {"preprocess": "standard"}),
    "official-code": ("official-code", {"preprocess": "standard"}),
    "paper, scale 100, ZCA": ("paper", {"loss_scale": 100.0, "preprocess": "zca"}),
    "dm, scale 1": ("dm", {}),
}
"""Name of a line -> recipe and what is changed in it."""
RANDOM = {"random real images": "standard", "random real images, ZCA": "zca"}


def recipe_of(line: str, dataset: Dataset, ipc: int, changes: dict[str, Any]) -> Recipe:
    """The recipe of a line, in `CANDIDATES` or `RECIPE:KEY=VALUE,...`, after general changes."""
    name, _, text = line.partition(":")
    settings: dict[str, Any] = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    if line in CANDIDATES:
        name, settings = CANDIDATES[line]
    return recipe_for(name, dataset.name, dataset.shape, ipc).override({**changes, **settings})


def make(
    line: str, dataset: Dataset, ipc: int, changes: dict[str, Any], seed: int, runs: Path | None
) -> CondensedSet:
    """The set of a line; in the folder `runs`, if there is one, it is kept, and gone on with."""
    how = (
        Selection(method="random", preprocess=RANDOM[line])
        if line in RANDOM
        else recipe_of(line, dataset, ipc, changes)
    )
    made = Made(source=Source(name=dataset.name), ipc=ipc, seed=seed, how=how)
    with tempfile.TemporaryDirectory() as passing:
        return Shelf(folder=runs or Path(passing), checkpoint_every=20).made(made, dataset)


@click.command()
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path())
@click.option(
    "--hold-out", default=0, help="Test on so many held-out training images: for choosing."
)
@click.option(
    "--line",
    "chosen",
    multiple=True,
    help="A line of the table, or RECIPE:KEY=VALUE,...; default: all of the table.",
)
@click.option("--ipc", default=10, show_default=True)
@click.option(
    "--network",
    help="To match under and to train, where a line names no other; "
    "default: each recipe's, and convnet.",
)
@click.option("--steps", default=200, show_default=True)
@click.option("--real-batch", default=64, show_default=True)
@click.option("--epochs", default=300, show_default=True)
@click.option("--seeds", default=1, show_default=True, help="Sets condensed by each recipe.")
@click.option("--repeats", default=5, show_default=True, help="Networks trained on each set.")
@click.option("--name", default="recipes", show_default=True, help="Name of the result files.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the run folders, so that a killed condensation goes on.",
)
def main(
    data_dir: str | None,
    chosen: tuple[str, ...],
    seeds: int,
    name: str,
    out: Path | None,
    **settings: Any,
) -> None:
    """Compare the recipes at a small, equal cost."""
    real, ipc, network = (
        load_dataset(settings["dataset"], data_dir),
        settings["ipc"],
        settings["network"],
    )
    real = real.hold_out(settings["hold_out"], seed=0) if settings["hold_out"] else real
    path = results.FOLDER / f"{name}.json"
    kept = read_json(path) if path.exists() else {}
    if kept and kept.get("settings") != settings:
        raise UserError(
            f"{path} was measured otherwise ({kept.get('settings')}): choose another --name"
        )
    lines = kept.get("lines", {})
    changes = {key: settings[key] for key in ("steps", "real_batch")} | (
        {"network": network} if network else {}
    )
    trained, protocol = network or "convnet", Protocol(epochs=settings["epochs"])
    for seed, line in product(range(seeds), chosen or [*RANDOM, *CANDIDATES]):
        known = lines[line]["accuracies"] if line in lines else []
        if len(known) > seed * settings["repeats"]:
            continue
        condensed = make(line, real, ipc, changes, seed, out)
        of_set = evaluate(
            condensed, real, trained, repeats=settings["repeats"], protocol=protocol, seed=seed
        )[trained]
        score = Score((*known, *of_set.accuracies), seed + 1)
        lines[line] = score.to_json()
        print(
            f"{line:<28} {score.mean:.2%}  {score.ci95[0]:.2%} to {score.ci95[1]:.2%}", flush=True
        )
        document = {"conditions": results.conditions(), "settings": settings, "lines": lines}
        results.write(name, document, _table(lines, bool(settings["hold_out"])))
    draw(results.FOLDER / f"{name}.png", {"settings": settings, "lines": lines})


def draw(path: Path, document: dict[str, Any]) -> None:
    """A bar for each line of the result, with its interval."""
    scores = {
        line: Score(tuple(of_line["accuracies"]), of_line["sets"])
        for line, of_line in document["lines"].items()
    }
    held_out = document.get("settings", {}).get("hold_out")
    bars(path, scores, "held-out accuracy" if held_out else "test accuracy")


def _table(lines: dict[str, dict], held_out: bool) -> list[str]:
    rows = [
        f"| {line} | {of_line['sets']} | {100 * of_line['mean']:.2f} | "
        f"{100 * of_line['ci95'][0]:.2f} "
        f"to {100 * of_line['ci95'][1]:.2f} "
        f"| {', '.join(f'{100 * value:.2f}' for value in of_line['accuracies'])} |"
        for line, of_line in lines.items()
    ]
    tested = "held-out training images" if held_out else "test"
    return [
        f"| set | seeds | accuracy ({tested}), % | 95 % interval | trainings |",
        "|---|---|---|---|---|",
        *rows,
    ]


if __name__ == "__main__":
    main()
