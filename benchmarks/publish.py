"""Put a measured set into the package: `python -m benchmarks.publish cifar10-ipc10-best-seed0`.

The set and its accuracies are those of the record in `benchmarks/results/full`; `NAME-idc` is the
record of a set that was judged again (`benchmarks.judge`), by protocol `idc`. Only condensed images
are published, no selections of real ones.
"""

import shutil
from pathlib import Path
from typing import Any

import click

from benchmarks.ledger import FULL
from condense import CondensedSet, UserError
from condense.command import guard
from condense.methods import recipes
from condense.reading import read_json
from condense.runs.evaluations import protocol_text
from condense.sets import published
from condense.sets.card import licence_of
from condense.sets.published import Card
from condense.settings import plain
from condense.writing import write_json


@click.command()
@click.argument("names", nargs=-1, required=True)
def main(names: tuple[str, ...]) -> None:
    """Publish the sets of the records called NAMES."""
    for name in names:
        click.echo(publish(name, FULL, published.FOLDER))


def publish(name: str, full: Path, folder: Path) -> Path:
    """Put the set of a record in `full` into `folder`, with its card; returns the file."""
    record = read_json(full / f"{name}.json")
    if not record["finished"]:
        raise UserError(f"{name} is not finished: {record['note']}")
    if "steps" not in record["how"]:
        raise UserError(f"{name} is a selection of real images, which are not published")
    file = full / read_json(full / f"{record.get('of', name)}.json")["set"]
    condensed = CondensedSet.load(file)
    card = _card(name, record, condensed)
    short = f"{card.dataset}-ipc{card.ipc}-{card.recipe}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / f"{short}.safetensors")
    write_json(folder / f"{short}.json", plain(card))
    return folder / f"{short}.safetensors"


def _card(name: str, record: dict[str, Any], condensed: CondensedSet) -> Card:
    recipe, dataset = recipes.from_json(record["how"]), record["dataset"]
    published_as = recipes.recipe_for(recipe.name, dataset, condensed.shape, record["ipc"])
    changes = [
        f"--set {key}={value}"
        for key, value in recipe.to_json().items()
        if key != "method" and value != published_as.to_json()[key]
    ]
    command = [
        f"condensekit condense --dataset {dataset} --data-dir DIR --ipc {record['ipc']}",
        f"--recipe {recipe.name} --seed {record['seed']}", *changes, "--out RUN",
    ]  # fmt: skip
    return Card(
        dataset=dataset,
        ipc=record["ipc"],
        recipe=record["line"],
        seed=record["seed"],
        steps=condensed.provenance["steps"],
        network=record["network"],
        protocol=protocol_text(record["protocol"]),
        accuracies=tuple(record["score"]["accuracies"]),
        command=" ".join(command),
        licence=licence_of(dataset)[1],
        measured=f"benchmarks/results/full/{name}.json",
    )


if __name__ == "__main__":
    guard.run(main)
