"""One network judged: our way, as plain PyTorch would be written, and by DD-Ranking's evaluator.

Each way trains a ConvNet (depth 3, width 128, instance norm) on 100 images of 32 px for a number of
passes with DSA, and tests it once on 10,000 images. The images are noise: no accuracy is of
interest, and no data is needed. The ways take turns in one process.

ours        `condense.training.train`, compiled and in bfloat16 where the toolkit would do that
plain       a `DataLoader` and `torch.optim.SGD`, as a user would write it
dd-ranking  `train_one_epoch`, `validate` and the network of the package `ddranking`

DD-Ranking asks for versions of NumPy and scipy that are not ours, so it is installed aside:

    pip install --no-deps --target DIR ddranking
    PYTHONPATH=DIR python -m benchmarks.peers

It needs `timm`, which `.[dev]` has. Where it is not installed, its row is left out.
"""

import contextlib
import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmarks import results
from benchmarks.options import Benchmark
from benchmarks.step import ratio
from benchmarks.trainings import CLASSES, Work, plain
from condense import Protocol
from condense.command import guard
from condense.device import pick_device
from condense.networks.accelerate import Accelerated
from condense.networks.build import build, initialise
from condense.report.tables import markdown
from condense.training.train import accuracy, train

Judge = Callable[[int], None]
"""Trains a network for so many passes, and tests it."""
_SIDE, _TRAINED, _BATCH = 32, 100, Protocol().batch
_DSA = {
    "scale": 1.2, "rotate": 15.0, "flip": 0.5, "brightness": 1.0, "saturation": 2.0,
    "contrast": 0.5, "crop": 0.125, "cutout": 0.5,
}  # fmt: skip
"""What each operation of DSA may do, as its authors chose, by DD-Ranking's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is timed."""

    passes: int = 50
    """Passes over the 100 images, in each turn."""
    tested: int = 10_000
    """Images that each network is tested on."""
    turns: int = 5
    """Counted turns of each way."""
    name: str = "peers_cpu"
    """Name of the result files."""


@dataclass(frozen=True, slots=True)
class Images:
    """Noise with labels: `train` and `test` are pairs of images [N, 3, H, W] and labels [N]."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def noise(tested: int) -> Images:
    """The images that all ways are given."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, _SIDE, _SIDE, generator=generator)
        return images, torch.randint(CLASSES, (count,), generator=generator)

    return Images(some(_TRAINED), some(tested))


def convnet() -> nn.Module:
    """The network that is judged, with its first weights."""
    network = build("convnet", (3, _SIDE, _SIDE), CLASSES)
    initialise(network, 0, 0)
    return network


def ours(images: Images) -> Judge:
    """As `evaluate` does it."""
    fast = Accelerated(convnet(), pick_device("cpu"))

    def judge(passes: int) -> None:
        train(fast, *images.train, Protocol(epochs=passes), seed=0)
        accuracy(fast, *images.test)

    return judge


def by_hand(images: Images) -> Judge:
    """As plain PyTorch would be written."""
    device, loader = pick_device("cpu"), DataLoader(TensorDataset(*images.test), _BATCH)

    def judge(passes: int) -> None:
        network = convnet()
        work = Work(network=lambda size: network, protocol=Protocol(), images=_TRAINED)
        plain(work, device)(*images.train, passes)  # a pass over 100 images is one step
        network.eval()
        right = 0
        with torch.no_grad():
            for batch, truth in loader:
                right += int((network(batch).argmax(1) == truth).sum())

    return judge


def dd_ranking(images: Images) -> Judge:
    """As the package `ddranking` does it, without processes that load data: all is in memory."""
    aug, utils = (importlib.import_module(f"ddranking.{name}") for name in ("aug", "utils"))
    dataset = TensorDataset(*images.train)
    trained = DataLoader(dataset, _BATCH, sampler=RandomSampler(dataset))
    tested = DataLoader(TensorDataset(*images.test), _BATCH)

    def judge(passes: int) -> None:
        network = utils.build_model("ConvNet-3", CLASSES, (_SIDE, _SIDE), device="cpu")
        optimizer = utils.get_optimizer("sgd", network, lr=0.01)
        augment, loss = aug.DSA(dict(_DSA)), nn.CrossEntropyLoss()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for epoch in range(passes):
                utils.train_one_epoch(
                    epoch, network, trained, loss, optimizer, aug_func=augment, device="cpu"
                )
            utils.validate(network, tested, device="cpu")

    return judge


def ways() -> dict[str, Callable[[Images], Judge]]:
    """The ways that can be timed here."""
    here: dict[str, Callable[[Images], Judge]] = {"ours": ours, "plain": by_hand}
    if importlib.util.find_spec("ddranking"):
        here["dd-ranking"] = dd_ranking
    return here


def measure(asked: Asked) -> dict[str, list[float]]:
    """The seconds of each counted turn, by way."""
    images = noise(asked.tested)
    judges = {name: make(images) for name, make in ways().items()}
    times: dict[str, list[float]] = {name: [] for name in judges}
    for turn in range(-1, asked.turns):  # the first one compiles, and is not counted
        for name, judge in judges.items():
            began = time.perf_counter()
            judge(asked.passes)
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def rows(times: dict[str, list[float]]) -> list[list[Any]]:
    """A row for each way: its median, and how many times as long it takes as ours."""
    table: list[list[Any]] = []
    for name, taken in times.items():
        against = ratio(taken, times["ours"])
        low, high = against["ratio_ci95"]
        told = "" if name == "ours" else f"{against['ratio']:.2f} ({low:.2f} to {high:.2f})"
        table.append([name, f"{median(taken):.2f}", told])
    return table


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Time one network's training and test, by three ways."""
    times = measure(asked)
    title = (
        f"A ConvNet trained for {asked.passes} passes on {_TRAINED} images of {_SIDE} px, and "
        f"tested on {asked.tested:,}. Seconds are medians of {asked.turns} turns."
    )
    headers = ("way", "seconds", "times as long as ours (95 %)")
    lines = [title, "", *markdown(headers, rows(times))]
    results.write(asked.name, {"seconds_of_turns": times}, lines)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    guard.run(main)
