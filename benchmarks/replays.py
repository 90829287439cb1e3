"""A step of replay in Avalanche: the command's way, Avalanche's own, and the floor.

Each step trains on as many images of the stream as of the memory. The stream and the network are
the same; the images are noise. Both ways train on the second of two experiences, turn by turn in
one process, with all that Avalanche does around the steps:

ours     the strategy of `condensekit continual --mode replay`, with a `CondensedBuffer`, augmented,
         compiled and in bfloat16 where the toolkit would do that
plain    Avalanche's `ER_ACE` with its own memory, in float32 and without augmentation

The floor is that of `benchmarks.trainings`, for the images of the stream and of the memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import ER_ACE

from benchmarks import results
from benchmarks.options import Benchmark
from benchmarks.step import rates_of
from benchmarks.trainings import CLASSES, HEADERS, Work, named, row, timed
from condense.command import guard
from condense.data.images import Dataset, Images
from condense.data.preprocess import Preprocess, make_preprocess
from condense.device import pick_device
from condense.methods.selection import select
from condense.report.tables import markdown
from condense.training.protocol import Protocol
from continual import CondensedBuffer, class_stream
from continual.plugins import build_strategy
from continual.replay import quick

BATCH, IPC = 32, 10
NETWORK = named("convnet")
WORK = Work(network=NETWORK, protocol=Protocol(epochs=1, batch=2 * BATCH), images=10 * BATCH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is timed."""

    steps: int = 20
    """Steps of a turn."""
    turns: int = 5
    """Counted turns of each way."""
    name: str = "replays_cpu"
    """Name of the result files."""


def noise(steps: int) -> Dataset:
    """Few images of the first half of the classes, and those of so many steps of the second."""
    half = CLASSES // 2
    labels = torch.cat([torch.arange(IPC * half) % half, half + torch.arange(steps * BATCH) % half])
    shape, generator = (len(labels), 3, WORK.size, WORK.size), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    train = Images(pixels, labels, tuple(map(str, range(CLASSES))))
    return Dataset("noise", train, train.subset(torch.arange((IPC + 1) * half)))


def ours(dataset: Dataset, preprocess: Preprocess) -> Any:
    """The strategy of the command, with a memory of all classes."""
    memory = select("random", dataset, IPC, preprocess=preprocess, seed=0)
    device = pick_device("cpu")
    network = quick(NETWORK(WORK.size), float("inf"), BATCH, device)
    protocol = replace(WORK.protocol, batch=BATCH)
    evaluator = EvaluationPlugin(loggers=[])
    return build_strategy(
        "er-ace", network, CondensedBuffer(memory), protocol, seed=0, device=device,
        evaluator=evaluator,
    )  # fmt: skip


def plain(dataset: Dataset, preprocess: Preprocess) -> Any:
    """Avalanche's strategy, with a memory of as many images."""
    network, protocol = NETWORK(WORK.size), WORK.protocol
    optimizer = torch.optim.SGD(
        network.parameters(), protocol.lr, protocol.momentum, weight_decay=protocol.weight_decay
    )
    return ER_ACE(
        model=network, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(),
        mem_size=IPC * CLASSES // 2, batch_size_mem=BATCH, train_mb_size=BATCH, train_epochs=1,
        evaluator=EvaluationPlugin(loggers=[]),
    )  # fmt: skip


def way(make: Callable[..., Any], steps: int) -> Callable[[], None]:
    """Trains on the second experience of a stream, which has so many steps."""
    dataset = noise(steps)
    preprocess = make_preprocess("standard", dataset)
    first, second = class_stream(dataset, 2, range(CLASSES), preprocess=preprocess).train_stream
    strategy = make(dataset, preprocess)
    strategy.train(first)
    return lambda: strategy.train(second)


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Time replay our way, Avalanche's own, and beside the floor."""
    _, rates = rates_of(pick_device("cpu"))
    ways = {make.__name__: way(make, asked.steps) for make in (ours, plain)}
    found = timed(WORK, ways, rates, steps=asked.steps, turns=asked.turns, batch=2 * BATCH)
    name = f"ER-ACE in Avalanche, {BATCH} + {BATCH} images"
    document = {"rates": rates, "works": {name: found}}
    results.write(asked.name, document, markdown(HEADERS, [row(name, found)]))


if __name__ == "__main__":
    guard.run(main)
