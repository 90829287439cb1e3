"""Accuracy against minutes: how good a set is after so long, everything that it needs included.

Every point is a run of `condense` with a budget of minutes, from nothing: timing, compiling, the
training of the pool and the steps. Networks are then trained on its set and tested on the whole
test set, once. Runs and networks are kept in the folder `out`, so that a killed command goes on; a
run that was killed itself begins anew. Nothing else should run on the machine meanwhile.
"""

import shutil
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.options import Benchmark
from condense import CondensedSet, Score, UserError, condense, load_dataset, recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.reading import read_json
from condense.report.figures import panel, save_figure
from condense.report.papers import MAIN
from condense.report.tables import markdown, percent
from condense.runs.evaluations import measure
from condense.study.workers import Workers
from condense.training.evaluate import Evaluation
from condense.training.protocol import protocol_for
from condense.writing import write_bytes

HEADERS = (
    "line", "IPC", "minutes", "of them pool", "steps", "test accuracy, %", "95 % interval",
    "networks",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured."""

    data_dir: str | None = None
    """Folder with the dataset."""
    dataset: str = "cifar10"
    """Name of the dataset."""
    line: tuple[str, ...] = ("best", "datadam", "dm")
    """A recipe; may be repeated."""
    ipc: tuple[int, ...] = (10,)
    """Images per class; may be repeated."""
    budget: tuple[float, ...] = (3.0, 6.0, 12.0, 24.0)
    """Minutes that a run may take; may be repeated."""
    network: str = "convnet"
    """To match under and to train."""
    real_batch: int = 64
    """Real images of each class in a step."""
    seed: int = 0
    """Of every set."""
    epochs: int = 1001
    """Passes of each training."""
    repeats: int = 3
    """Networks trained on each set."""
    out: Path
    """Folder for the runs."""
    name: str = "minutes"
    """Name of the result files."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Measure accuracy against minutes."""
    real = load_dataset(asked.dataset, asked.data_dir)
    path = results.FOLDER / f"{asked.name}.json"
    points = read_json(path)["points"] if path.exists() else []
    if any(point["dataset"] != asked.dataset for point in points):
        raise UserError(f"{path} is of another dataset: choose another --name")
    for ipc, line, minutes in product(asked.ipc, asked.line, asked.budget):
        point = _point(asked, real, line, ipc, minutes)
        key = [point[name] for name in ("line", "ipc", "budget", "seed")]
        others = [p for p in points if [p[n] for n in ("line", "ipc", "budget", "seed")] != key]
        points = sorted([*others, point], key=lambda p: (p["ipc"], p["line"], p["budget"]))
        click.echo(f"{line}, IPC {ipc}, {minutes:g} minutes: {point['score']['mean']:.2%}")
        results.write(asked.name, {"points": points}, table(points))
    draw(results.FOLDER / f"{asked.name}.png", {"points": points})


def _point(asked: Asked, real: Dataset, line: str, ipc: int, minutes: float) -> dict[str, Any]:
    """A run of so many minutes, and the accuracy of networks trained on its set."""
    folder = asked.out / f"{asked.dataset}-ipc{ipc}-{line}-{minutes:g}min-seed{asked.seed}"
    seconds = folder / "seconds.txt"
    recipe = recipe_for(line, real.name, real.shape, ipc)
    recipe = recipe.override({"network": asked.network, "real_batch": asked.real_batch})
    if not seconds.exists():
        shutil.rmtree(folder, ignore_errors=True)
        source = Source(name=asked.dataset, data_dir=asked.data_dir)
        began = time.monotonic()
        condense(
            real, ipc=ipc, recipe=recipe, minutes=minutes, seed=asked.seed, out=folder,
            source=source,
        )  # fmt: skip
        write_bytes(seconds, f"{time.monotonic() - began}\n".encode())
    condensed = CondensedSet.load(folder)
    protocol = replace(protocol_for("dm", real.name), epochs=asked.epochs)
    bench = Evaluation.of(condensed, real, asked.network, asked.repeats, protocol, asked.seed)
    score = measure(bench, [folder], workers=Workers(workers=0)).scores[asked.network]
    return {
        "dataset": asked.dataset,
        "line": line,
        "ipc": ipc,
        "budget": minutes,
        "seed": asked.seed,
        "minutes": round(float(seconds.read_text()) / 60, 2),
        "pool_minutes": round(read_json(folder / "run.json")["progress"]["pool_seconds"] / 60, 2),
        "steps": condensed.provenance["steps"],
        "recipe": condensed.provenance["recipe"],
        "fingerprint": condensed.fingerprint,
        "score": score.to_json(),
    }


def table(points: list[dict[str, Any]]) -> list[str]:
    """The points as a Markdown table."""
    rows = [
        [
            point["line"],
            point["ipc"],
            point["minutes"],
            point["pool_minutes"],
            point["steps"],
            percent([point["score"]["mean"]]),
            percent(point["score"]["ci95"]),
            len(point["score"]["accuracies"]),
        ]
        for point in points
    ]
    return markdown(HEADERS, rows)


def draw(path: Path, document: dict[str, Any]) -> None:
    """A curve for each line and number of images, and what the paper claims as a dashed line."""
    figure, axes = panel(6.4, 4.2)
    curves: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for point in document["points"]:
        curves.setdefault((point["line"], point["ipc"]), []).append(point)
    for (line, ipc), points in curves.items():
        scores = [Score(tuple(point["score"]["accuracies"])) for point in points]
        axes.errorbar(
            [point["minutes"] for point in points],
            [100 * score.mean for score in scores],
            yerr=[100 * (score.ci95[1] - score.mean) for score in scores],
            marker="o", capsize=3, label=f"{line}, IPC {ipc}",
        )  # fmt: skip
    dataset = document["points"][0]["dataset"]
    for ipc in sorted({ipc for _, ipc in curves}):
        claimed = MAIN.get(("datadam", f"{dataset} IPC {ipc}"))
        if claimed:
            axes.axhline(float(claimed.split()[0]), color="#777777", linestyle="--", linewidth=1)
    axes.set(xlabel="minutes, the pool included", ylabel="test accuracy, %")
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    guard.run(main)
