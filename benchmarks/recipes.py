"""Which recipe to use: the accuracy of sets condensed by each, against random real images, by one training.

Each recipe condenses for the same number of steps with the same real batch, so that they cost about the same; networks are
then trained on each set and tested on the whole test set, once. A finished line is kept and not measured again.
"""

from pathlib import Path

import click

from benchmarks import results
from condense import Protocol, Recipe, condense, evaluate, load_dataset, resolve
from condense.data import Dataset
from condense.files import read_json
from condense.preprocess import make_preprocess
from condense.report import bars
from condense.select import select
from condense.store import CondensedSet

CANDIDATES: dict[str, tuple[str, dict]] = {
    "paper, scale 100": ("paper", {"loss_scale": 100.0, "preprocess": "standard"}),
    "paper, scale 1": ("paper", {"preprocess": "standard"}),
    "official-code": ("official-code", {"preprocess": "standard"}),
    "paper, scale 100, ZCA": ("paper", {"loss_scale": 100.0, "preprocess": "zca"}),
    "dm, scale 1": ("dm", {}),
}
"""Name of a line -> recipe and what is changed in it."""
RANDOM = {"random real images": "standard", "random real images, ZCA": "zca"}


def recipe_of(line: str, dataset: Dataset, ipc: int, steps: int, real_batch: int) -> Recipe:
    """The recipe of a line of the table."""
    name, changes = CANDIDATES[line]
    return resolve(name, dataset.name, dataset.shape, ipc).override({**changes, "steps": steps, "real_batch": real_batch})


def make(line: str, dataset: Dataset, ipc: int, steps: int, real_batch: int, seed: int) -> CondensedSet:
    """The set of a line of the table."""
    if line in RANDOM:
        return select("random", dataset, ipc, preprocess=make_preprocess(RANDOM[line], dataset), seed=seed)
    return condense(dataset, ipc=ipc, recipe=recipe_of(line, dataset, ipc, steps, real_batch), seed=seed)


@click.command()
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path())
@click.option("--ipc", default=10, show_default=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--real-batch", default=64, show_default=True)
@click.option("--epochs", default=300, show_default=True)
@click.option("--seeds", default=1, show_default=True, help="Sets condensed by each recipe.")
@click.option("--repeats", default=5, show_default=True, help="Networks trained on each set.")
@click.option("--name", default="recipes", show_default=True, help="Name of the result files.")
def main(
    dataset: str, data_dir: str | None, ipc: int, steps: int, real_batch: int, epochs: int, seeds: int, repeats: int, name: str
) -> None:
    """Compare the recipes at a small, equal cost."""
    real = load_dataset(dataset, data_dir)
    path = results.FOLDER / f"{name}.json"
    conditions = results.conditions()
    lines = read_json(path)["lines"] if path.exists() and _same(path, conditions["command"]) else {}
    for line in [*RANDOM, *CANDIDATES]:
        if line not in lines:
            sets = [make(line, real, ipc, steps, real_batch, seed) for seed in range(seeds)]
            score = evaluate(sets, real, repeats=repeats, protocol=Protocol(epochs=epochs))["convnet"]
            lines[line] = score.to_json()
            print(f"{line:<28} {score.mean:.2%}  {score.ci95[0]:.2%} to {score.ci95[1]:.2%}", flush=True)
            results.write(name, {"conditions": conditions, "lines": lines}, _table(lines))
    bars(Path(results.FOLDER / f"{name}.png"), {line: _Line(found) for line, found in lines.items()}, "test accuracy")


class _Line:
    """A line as `report.bars` wants it."""

    def __init__(self, found: dict) -> None:
        self.accuracies, self.mean, self.ci95 = tuple(found["accuracies"]), found["mean"], tuple(found["ci95"])


def _same(path: Path, command: str) -> bool:
    return read_json(path)["conditions"]["command"] == command


def _table(lines: dict[str, dict]) -> list[str]:
    rows = [
        f"| {line} | {100 * found['mean']:.2f} | {100 * found['ci95'][0]:.2f} to {100 * found['ci95'][1]:.2f} "
        f"| {', '.join(f'{100 * value:.2f}' for value in found['accuracies'])} |"
        for line, found in lines.items()
    ]
    return ["| set | test accuracy, % | 95 % interval | trainings |", "|---|---|---|---|", *rows]


if __name__ == "__main__":
    main()
