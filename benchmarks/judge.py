"""Judge a set of the full-length results again: by another protocol, or by other networks.

`python -m benchmarks.judge cifar10-ipc10-best-seed0 --protocol idc --data-dir DIR`

The set is the one whose record is in `benchmarks/results/full`: the file beside the record, as
users get it, or the selection of real images, which follows from its seed. Each network is tested
on the whole test set, once, after the last pass. What was measured is kept beside the record in
NAME-PROTOCOL[-NETWORK].json, network by network, so that a killed command goes on.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import results
from benchmarks.ledger import FULL
from benchmarks.options import Benchmark
from condense import CondensedSet, Score, load_dataset
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.networks.build import canonical
from condense.randomness import derive
from condense.reading import read_json
from condense.runs.shelf import Made, Selection, Shelf
from condense.sets.provenance import check_belongs
from condense.settings import read_value
from condense.training.protocol import protocol_for
from condense.training.repeats import Repeats
from condense.writing import write_json


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured."""

    data_dir: str | None = None
    """Folder with the dataset."""
    protocol: str = "dm"
    """Name of the protocol."""
    network: tuple[str, ...] = ("convnet",)
    """Architectures, each by name."""
    repeats: int = 5
    """Networks of each architecture."""
    out: Path = FULL
    """Folder of the records."""


@click.command(cls=Benchmark, asked=Asked)
@click.argument("names", nargs=-1, required=True)
def main(names: tuple[str, ...], asked: Asked) -> None:
    """Judge the sets of the records called NAMES."""
    for name in names:
        record = read_json(asked.out / f"{name}.json")
        dataset = load_dataset(record["dataset"], asked.data_dir)
        condensed = _set_of(record, dataset, asked)
        for network in asked.network:
            _judge(name, record, condensed, dataset, network, asked)


def _set_of(record: dict[str, Any], dataset: Dataset, asked: Asked) -> CondensedSet:
    if "steps" in record["how"]:
        return CondensedSet.load(asked.out / record["set"])
    how = read_value(Selection, record["how"], "how")
    source = Source(name=dataset.name, data_dir=asked.data_dir)
    made = Made(source=source, ipc=record["ipc"], how=how, seed=record["seed"])
    return Shelf(folder=asked.out / "large" / "selections", quiet=True).made(made, dataset)


def _judge(
    name: str,
    record: dict[str, Any],
    condensed: CondensedSet,
    dataset: Dataset,
    network: str,
    asked: Asked,
) -> None:
    """Train networks of one architecture, one after the other; each is in the record at once."""
    protocol = protocol_for(asked.protocol, dataset.name)
    parts = [name, asked.protocol, *([] if network == "convnet" else [network])]
    path = asked.out / f"{'-'.join(parts)}.json"
    same = ("dataset", "ipc", "line", "how", "seed", "condense")
    judged = {key: record[key] for key in same} | {
        "name": path.stem,
        "of": name,
        "network": canonical(network, dataset.shape),
        "protocol": dataclasses.asdict(protocol),
        "evaluated": "the set as it is stored, on the whole test set, after the last pass",
        "evaluate": read_json(path)["evaluate"] if path.exists() else [],
    }
    accuracies = [one for leg in judged["evaluate"] for one in leg["accuracies"]]
    if len(accuracies) >= asked.repeats:
        return
    leg: dict[str, Any] = {"seconds": 0.0, "conditions": results.conditions(), "accuracies": []}
    judged["evaluate"].append(leg)
    check_belongs(condensed, dataset)
    test = condensed.preprocess.apply(dataset.test.pixels), dataset.test.labels
    seed, cpu = derive(record["seed"], "judge"), torch.device("cpu")
    networks = Repeats(network, condensed, test, asked.repeats, protocol, seed, cpu)
    began = time.monotonic()
    for repeat in range(len(accuracies), asked.repeats):
        accuracies.append(networks.accuracy(repeat))
        leg["accuracies"].append(accuracies[-1])
        leg["seconds"] = round(time.monotonic() - began, 2)
        score = Score(tuple(accuracies))
        judged["finished"] = len(accuracies) == asked.repeats
        judged["note"] = f"{len(accuracies)} of {asked.repeats} networks"
        write_json(path, judged | {"score": score.to_json()})
        click.echo(f"{path.stem}: {judged['note']}, {score.mean:.2%}")


if __name__ == "__main__":
    guard.run(main)
