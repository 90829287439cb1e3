"""Condensed memories against real ones of as many bytes, in class-incremental CIFAR-100.

Networks are trained from scratch or by replay. It is the paper's protocol at a scale for one CPU
core: `python -m benchmarks.continual PLAN --data-dir DIR --out DIR`. A run that is interrupted goes
on when it is started again; one folder serves all plans, which share its memories. What of the
replay was chosen (one pass, minibatches of 32) was chosen on ten other classes. At full scale it is
a job of the campaign.

The plan `features` measures, on four other classes, what the network behind herding has learnt
after some passes.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import results
from benchmarks.options import StudyCommand
from condense import Protocol, load_dataset
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.networks.accelerate import accelerate
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.report.tables import markdown
from condense.study.workers import Workers
from condense.training.train import accuracy, train
from continual import Plan, class_order, of_classes, resume, run
from continual.memories import FEATURE_EPOCHS
from continual.results import Results, cells, differences, explained

DATADAM = "datadam:loss_scale=100"
_REDUCED = Plan(steps=5, classes=20, ipc=10, condense_steps=150, orders=3, repeats=1)
_SCRATCH = dataclasses.replace(
    _REDUCED, epochs=40, batch=64, methods=("random", "herding", DATADAM)
)
_REPLAYED = ("class-balanced", "random", DATADAM)
_ER_ACE = dataclasses.replace(
    _REDUCED, mode="replay", strategy="er-ace", epochs=1, batch=32, methods=_REPLAYED
)
_FEWER_REAL = f"{DATADAM},real_batch=64"
"""A step with a hundred classes takes too long with the recipe's 256."""
_ALL_CLASSES = dataclasses.replace(
    _ER_ACE,
    steps=10,
    classes=None,
    condense_steps=150,
    methods=("class-balanced", f"{_FEWER_REAL}+real", _FEWER_REAL),
)
_TWENTY = dataclasses.replace(_ALL_CLASSES, ipc=20, condense_steps=500)
PASSES = (5, FEATURE_EPOCHS)
PLANS = {
    "scratch": _SCRATCH,
    "er-ace": _ER_ACE,
    "er-ace-100-classes": _ALL_CLASSES,
    "er-ace-100-classes-20": _TWENTY,
    "der-100-classes-20": dataclasses.replace(_TWENTY, strategy="der++"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Where things are."""

    data_dir: str | None = None
    """Folder with CIFAR-100 as torchvision keeps it."""
    out: Path
    """Folder for the run and its memories."""


@click.command(cls=StudyCommand, asked=Asked)
@click.argument("name", type=click.Choice([*PLANS, "features"]))
def main(name: str, asked: Asked, workers: Workers, minutes: float | None) -> None:
    """Measure one plan and write it to the results."""
    dataset = load_dataset("cifar100", asked.data_dir)
    if name == "features":
        features(dataset)
        return
    plan, folder = dataclasses.replace(PLANS[name], device=workers.device), asked.out / name
    source = Source(name="cifar100", data_dir=asked.data_dir)
    session = {"cache": asked.out / "memories", "workers": workers, "minutes": minutes}
    measured = go_on(dataset, plan, folder, source, **session)
    if measured.left:
        click.echo(f"{measured.left} of {measured.total} networks left: the same command goes on")
        return
    document = {"plan": dataclasses.asdict(plan), "methods": measured.to_json()}
    classes = plan.classes or len(dataset.classes)
    results.write(f"continual_{name}", document, _lines(plan, classes, measured))
    shutil.copyfile(folder / "accuracy.png", results.FOLDER / f"continual_{name}.png")


def go_on(dataset: Dataset, plan: Plan, folder: Path, source: Source, **session: Any) -> Results:
    """What is in the folder, gone on with; or begun by the plan."""
    if (folder / "plan.json").exists():
        return resume(folder, dataset, **session)
    return run(dataset, plan, folder, source=source, **session)


def features(dataset: Dataset) -> None:
    """Train the network behind herding for several numbers of passes, and test it."""
    part = of_classes(dataset, class_order(len(dataset.classes), 0)[-4:])
    preprocess, device = make_preprocess("standard", part), torch.device("cpu")
    network = build("convnet", part.shape, len(part.classes))
    fast = accelerate(network, 3 * sum(PASSES) * part.train.pixels[:, 0].numel(), device)
    accuracies = {}
    for passes in PASSES:
        initialise(network, derive(0, "select"), 0)
        protocol = Protocol(epochs=passes, augment="none")
        seed = derive(0, "select")
        train(fast, part.train.pixels, part.train.labels, protocol, seed, prepare=preprocess.apply)
        accuracies[passes] = [
            accuracy(fast, of.pixels, of.labels, prepare=preprocess.apply)
            for of in (part.train, part.test)
        ]
    rows = [[passes, *(f"{100 * one:.1f}" for one in of)] for passes, of in accuracies.items()]
    title = (
        "Accuracy, %, of the network behind herding, trained on four classes of CIFAR-100 "
        f"({', '.join(part.classes)}):"
    )
    document = {"classes": part.classes, "passes": accuracies}
    lines = [title, "", *markdown(("passes", "training", "test"), rows)]
    results.write("continual_features", document, lines)


def _lines(plan: Plan, classes: int, measured: Results) -> list[str]:
    """The result for people."""
    training = (
        "trained from scratch on the memory"
        if plan.mode == "scratch"
        else f"trained by strategy {plan.strategy}"
    )
    images = plan.ipc * classes
    return [
        f"CIFAR-100, {classes} classes in {plan.steps} steps. Each memory: {images} images, "
        f"{images * 3072:,} bytes; condensed for {plan.condense_steps} steps. Networks {training}, "
        f"passes {plan.epochs}, minibatch {plan.batch}.",
        "",
        "Accuracy on the classes seen, %, and half of its 95 % interval:",
        "",
        *markdown(*cells(measured)),
        "",
        *explained(measured),
        "",
        "Final accuracies compared order by order, in points:",
        "",
        *markdown(*differences(measured)),
    ]


if __name__ == "__main__":
    guard.run(main)
