"""Avalanche scripts, and the one line that changes: replay of 40 digits, real or condensed.

Everything but the lines marked `<--` is Avalanche as its documentation shows it, for each of five
strategies. Takes less than a minute; the set may also be one that `condensekit condense --dataset
digits` has made: `python -m benchmarks.avalanche_example --memory runs/digits --strategy gdumb`.
"""

from pathlib import Path
from typing import Any

import click
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import (
    EvaluationPlugin,
    GDumbPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
)
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.supervised import ER_ACE, Naive

from condense import CondensedSet, condense, load_dataset, recipe_for
from condense.command import guard
from condense.data.preprocess import make_preprocess
from condense.report.tables import percent
from continual import CondensedBuffer, class_order, class_stream

IPC, STEPS, EPOCHS = 4, 150, 5


def replay(memory: Any, common: dict[str, Any]) -> Any:
    """Plain replay."""
    plugin = ReplayPlugin(mem_size=memory.max_size, storage_policy=memory)  # <-- storage_policy
    return Naive(plugins=[plugin], **common)


def lwf(memory: Any, common: dict[str, Any]) -> Any:
    """Learning without forgetting, with replay beside it."""
    plugin = ReplayPlugin(mem_size=memory.max_size, storage_policy=memory)  # <-- storage_policy
    return Naive(plugins=[plugin, LwFPlugin(alpha=1.0, temperature=2.0)], **common)


def gdumb(memory: Any, common: dict[str, Any]) -> Any:
    """A new network at each experience, trained on the memory alone."""
    plugin = GDumbPlugin(mem_size=memory.max_size)
    plugin.storage_policy = memory  # <-- this line
    return Naive(plugins=[plugin], **{**common, "train_epochs": 10 * EPOCHS})


def mir(memory: Any, common: dict[str, Any]) -> Any:
    """Replay of the images that suffer most from the present ones."""
    plugin = MIRPlugin(mem_size=memory.max_size, batch_size_mem=4, subsample=20)
    plugin.storage_policy = memory  # <-- this line
    return Naive(plugins=[plugin], **common)


def er_ace(memory: Any, common: dict[str, Any]) -> Any:
    """Replay with a loss of its own for the present images."""
    strategy = ER_ACE(mem_size=memory.max_size, batch_size_mem=8, **common)
    strategy.storage_policy = memory  # <-- this line
    return strategy


STRATEGIES = {"replay": replay, "lwf": lwf, "gdumb": gdumb, "mir": mir, "er-ace": er_ace}


def final_accuracy(strategy: str, benchmark: Any, memory: Any, seed: int) -> float:
    """The accuracy on all classes, in [0, 1], after a strategy has gone through the stream."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 4 * 4, 10),
    )
    common = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": 32,
        "train_epochs": EPOCHS,
        "eval_mb_size": 100,
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    }
    learner = STRATEGIES[strategy](memory, common)
    for experience in benchmark.train_stream:
        learner.train(experience)
    metrics, stream = learner.eval(benchmark.test_stream), "Top1_Acc_Stream/eval_phase/test_stream"
    return next(value for name, value in metrics.items() if name.startswith(stream))


@click.command()
@click.option(
    "--memory",
    type=click.Path(path_type=Path),
    help="A condensed set of digits; made here by default.",
)
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), default="replay")
@click.option("--seeds", default=3, show_default=True, help="Trainings of each.")
@click.option("--steps", default=STEPS, show_default=True, help="Steps of the condensation.")
def main(memory: Path | None, strategy: str, seeds: int, steps: int) -> None:
    """Compare the two memories on five experiences of two digits each."""
    digits = load_dataset("digits")
    # As the script trains: without augmentation.
    changes = {"loss_scale": 100, "real_batch": 64, "augment": "none", "steps": steps}
    recipe = recipe_for("paper", digits.name, digits.shape, IPC).override(changes)
    condensed = CondensedSet.load(memory) if memory else condense(digits, ipc=IPC, recipe=recipe)
    preprocess = make_preprocess("standard", digits)
    size = len(condensed)
    for name in ("ClassBalancedBuffer", "CondensedBuffer"):
        accuracies = []
        for seed in range(seeds):
            benchmark = class_stream(digits, 5, class_order(10, seed), preprocess=preprocess)
            buffer: Any = ClassBalancedBuffer(max_size=size)
            if name == "CondensedBuffer":
                buffer = CondensedBuffer(condensed, max_size=size)  # <-- the one line
            accuracies.append(final_accuracy(strategy, benchmark, buffer, seed))
        mean = sum(accuracies) / len(accuracies)
        shown = percent(accuracies, 1, ", ")
        click.echo(f"{name:<20} {size} images, {size * 64} bytes   {mean:.1%}  ({shown} %)")


if __name__ == "__main__":
    guard.run(main)
