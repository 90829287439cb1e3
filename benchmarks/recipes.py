"""Which recipe to use: the accuracy of sets condensed by each, against random real images.

Each recipe condenses for the same number of steps with the same real batch, so that they cost about
the same; networks are then trained on each set and tested on the whole test set, once, or with
--hold-out on held-out training images, to choose by. What is measured of a set is kept and not
measured again: a study may be stopped, and grow line by line and set by set.
"""

import tempfile
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.options import Benchmark
from condense import Protocol, Recipe, Score, UserError, evaluate, load_dataset, recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.reading import read_json
from condense.report.figures import bars
from condense.report.tables import markdown, percent
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
    line: str, dataset: Dataset, asked: "Asked", changes: dict[str, Any], seed: int
) -> CondensedSet:
    """The set of a line; in the folder `out`, if there is one, it is kept, and gone on with."""
    how = (
        Selection(method="random", preprocess=RANDOM[line])
        if line in RANDOM
        else recipe_of(line, dataset, asked.ipc, changes)
    )
    made = Made(source=Source(name=dataset.name), ipc=asked.ipc, seed=seed, how=how)
    with tempfile.TemporaryDirectory() as passing:
        shelf = Shelf(folder=asked.out or Path(passing), checkpoint_every=20, pools=asked.pools)
        return shelf.made(made, dataset)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is compared."""

    data_dir: str | None = None
    """Folder with the dataset."""
    line: tuple[str, ...] = ()
    """A line of the table, or RECIPE:KEY=VALUE,...; all of the table unless given."""
    seeds: int = 1
    """Sets condensed by each recipe."""
    name: str = "recipes"
    """Name of the result files."""
    out: Path | None = None
    """Folder for the run folders, so that a killed condensation goes on."""
    pools: Path | None = None
    """Folder of trained networks that the sets share (see `condensekit pool`)."""
    dataset: str = "cifar10"
    """Name of the dataset."""
    hold_out: int = 0
    """Test on so many held-out training images: for choosing."""
    ipc: int = 10
    """Images per class."""
    network: str | None = None
    """To match under and to train, where a line names no other; each recipe's, and `convnet`,
    unless given."""
    steps: int = 200
    """Steps of each condensation."""
    real_batch: int = 64
    """Real images of each class in a step."""
    epochs: int = 300
    """Passes of each training."""
    repeats: int = 5
    """Networks trained on each set."""

    def settings(self) -> dict[str, Any]:
        """What all lines of a result have in common."""
        own = ("data_dir", "line", "seeds", "name", "out", "pools")
        return {key: value for key, value in asdict(self).items() if key not in own}


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Compare the recipes at a small, equal cost."""
    real, settings = load_dataset(asked.dataset, asked.data_dir), asked.settings()
    real = real.hold_out(asked.hold_out, seed=0) if asked.hold_out else real
    path = results.FOLDER / f"{asked.name}.json"
    kept = read_json(path) if path.exists() else {}
    if kept and kept.get("settings") != settings:
        measured = f"{path} was measured otherwise ({kept.get('settings')})"
        raise UserError(f"{measured}: choose another --name")
    lines = kept.get("lines", {})
    changes: dict[str, Any] = {"steps": asked.steps, "real_batch": asked.real_batch}
    changes |= {"network": asked.network} if asked.network else {}
    trained, protocol = asked.network or "convnet", Protocol(epochs=asked.epochs)
    for seed, line in product(range(asked.seeds), asked.line or [*RANDOM, *CANDIDATES]):
        known = lines[line]["accuracies"] if line in lines else []
        if len(known) > seed * asked.repeats:
            continue
        condensed = make(line, real, asked, changes, seed)
        of_set = evaluate(condensed, real, trained, asked.repeats, protocol, seed)[trained]
        score = Score((*known, *of_set.accuracies), seed + 1)
        lines[line] = score.to_json()
        print(f"{line:<28} {score.mean:.2%}  {percent(score.ci95)} %", flush=True)
        document = {"settings": settings, "lines": lines}
        results.write(asked.name, document, _table(lines, bool(asked.hold_out)))
    draw(results.FOLDER / f"{asked.name}.png", {"settings": settings, "lines": lines})


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
        [
            line,
            of["sets"],
            percent([of["mean"]]),
            percent(of["ci95"]),
            percent(of["accuracies"], between=", "),
        ]
        for line, of in lines.items()
    ]
    tested = "held-out training images" if held_out else "test"
    headers = ["set", "seeds", f"accuracy ({tested}), %", "95 % interval", "trainings"]
    return markdown(headers, rows)


if __name__ == "__main__":
    guard.run(main)
