"""Training networks: our way, as plain PyTorch would be written, and the floor.

The works are those that the toolkit spends its time on beside condensing: networks that judge a
set, the networks of a pool, experts, the cells of a search, and a larger network. Replay has a
benchmark of its own (`benchmarks.replays`). The images are noise. Both
ways take the same steps, with the same augmentation, turn by turn in one process:

ours     `condense.training.train.train`, compiled and in bfloat16 where the toolkit would do that
plain    a `DataLoader`, `torch.optim.SGD` and float32, as a user would write it

The floor of a step is the larger of operations over the matrix rate of the type that ours computes
in, and bytes over the copy rate, both measured in this run (see `benchmarks.step`; the rate is the
better one of products and convolutions). Operations are those of a forward and a backward pass. Of
bytes, every convolution's output is written and read three times: once forward, twice backward.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import results
from benchmarks.options import Benchmark
from benchmarks.step import rates_of, ratio
from condense import Protocol
from condense.command import guard
from condense.data.augment import make_augment
from condense.data.cutmix import cutmix
from condense.device import fast_bfloat16, pick_device
from condense.networks.accelerate import Accelerated
from condense.networks.base import Network
from condense.networks.build import build, initialise
from condense.report.tables import markdown
from condense.training.experts import Training
from condense.training.experts import protocol as training_protocol
from condense.training.pool import TRAININGS
from condense.training.train import train
from nas.spaces import fresh, space

CLASSES = 10
HEADERS = (
    "work", "plain, ms a step", "ours, ms a step", "ratio (95 %)", "floor, ms", "ours / floor",
    "images/s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A kind of training."""

    network: Callable[[int], nn.Module]
    """Makes the network for images of a side in pixels."""
    protocol: Protocol
    images: int
    """In the training set."""
    size: int = 32
    """Side of the images in pixels."""
    compiled: bool = True
    """Whether the toolkit compiles it."""


def named(name: str) -> Callable[[int], Network]:
    """Makes a network by its name, with new weights.

    >>> sum(one.numel() for one in named("convnet-d1-w4")(8).parameters())
    770
    """

    def make(size: int) -> Network:
        network = build(name, (3, size, size), CLASSES)
        initialise(network, 0, 0)
        return network

    return make


def _cell(index: int) -> Callable[[int], nn.Module]:
    cells = space("nasbench201")

    def make(size: int) -> nn.Module:
        shape = (3, size, size)
        return fresh(cells.architecture(index), shape, CLASSES, 0, **cells.REGIME.sizes)

    return make


_POOL = Protocol(batch=64, **TRAININGS["idc"])
WORKS = {
    "a ConvNet on 100 images (`evaluate`)": Work(
        network=named("convnet"), protocol=Protocol(), images=100
    ),
    "a ConvNet of a pool": Work(network=named("convnet"), protocol=_POOL, images=50_000),
    "a ConvNet as expert (`experts`)": Work(
        network=named("convnet"), protocol=training_protocol(Training()), images=50_000
    ),
    "a ResNet-18 on 100 images": Work(
        network=named("resnet18"), protocol=Protocol(), images=100
    ),
    "a cell of NAS-Bench-201, 16 px": Work(
        network=_cell(6111), protocol=space("nasbench201").REGIME.protocol, images=100, size=16,
        compiled=False,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is timed."""

    line: tuple[str, ...] = tuple(WORKS)
    """A line of the table; may be repeated."""
    steps: int = 20
    """Steps of a turn."""
    turns: int = 5
    """Counted turns of each way."""
    images: int | None = None
    """Images of each training set, in place of its own number."""
    name: str = "trainings_cpu"
    """Name of the result files."""


def ours(work: Work, device: torch.device) -> Callable[[Tensor, Tensor, int], None]:
    """Trains for a number of steps as the toolkit does."""
    network = work.network(work.size).to(device)
    fast = Accelerated(network, device) if work.compiled else network
    augment = make_augment(work.protocol.augment)

    def run(images: Tensor, labels: Tensor, steps: int) -> None:
        passes = -(-steps * work.protocol.batch // len(images)) + steps
        protocol = replace(work.protocol, epochs=passes, steps=steps)
        train(fast, images, labels, protocol, seed=0, augment=augment)

    return run


def plain(work: Work, device: torch.device) -> Callable[[Tensor, Tensor, int], None]:
    """Trains for a number of steps as plain PyTorch would be written."""
    network = work.network(work.size).to(device).train()
    protocol, augment = work.protocol, make_augment(work.protocol.augment)
    optimizer = torch.optim.SGD(
        network.parameters(), protocol.lr, protocol.momentum,
        weight_decay=protocol.weight_decay, nesterov=protocol.nesterov,
    )  # fmt: skip

    def run(images: Tensor, labels: Tensor, steps: int) -> None:
        loader = DataLoader(TensorDataset(images, labels), protocol.batch, shuffle=True)
        step = 0
        while step < steps:
            for batch, truth in loader:
                mixed, others, own = augment.training(batch, 0, step), truth, None
                if protocol.cutmix:
                    mixed, partners, own = cutmix(mixed, protocol.cutmix, 0, step)
                    others = truth[partners]
                logits = network(mixed)
                loss = F.cross_entropy(logits, truth)
                if own is not None:
                    loss = own * loss + (1 - own) * F.cross_entropy(logits, others)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                if step == steps:
                    break

    return run


def floor(work: Work, batch: int, rates: dict[str, float], halved: bool) -> float:
    """Seconds that no step on so many images can go below, by the module's definition."""
    network = work.network(work.size).to("meta")
    image = torch.zeros(1, 3, work.size, work.size, device="meta")
    values: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *call: values.append(call[2].numel()))
    with FlopCounterMode(display=False) as counter:
        network.eval()(image).sum().backward()
    arithmetic = batch * counter.get_total_flops() / rates["network" if halved else "float32"]
    traffic = batch * 3 * 2 * sum(values) * (2 if halved else 4) / rates["copy"]
    return max(arithmetic, traffic)


def measure(work: Work, asked: Asked, rates: dict[str, float]) -> dict[str, Any]:
    """Time a work on noise."""
    device, count = pick_device("cpu"), asked.images or work.images
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, work.size, work.size, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    runs = {"ours": ours(work, device), "plain": plain(work, device)}
    ways = {name: partial(run, images, labels, asked.steps) for name, run in runs.items()}
    batch = min(work.protocol.batch, count)
    return timed(work, ways, rates, steps=asked.steps, turns=asked.turns, batch=batch)


def timed(
    work: Work,
    ways: Mapping[str, Callable[[], None]],
    rates: dict[str, float],
    *,
    steps: int,
    turns: int,
    batch: int,
) -> dict[str, Any]:
    """Medians, the ratio with its interval (Student's t on logarithms), and the floor.

    `ways` has `ours` and `plain`; each does so many steps of `batch` images when it is called.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, turns):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if turn >= 0:
                times[name].append((time.perf_counter() - began) / steps)
    medians = {name: median(taken) for name, taken in times.items()}
    lowest = floor(work, batch, rates, work.compiled and fast_bfloat16(pick_device("cpu")))
    return {
        "plain_s": medians["plain"],
        "ours_s": medians["ours"],
        **ratio(times["plain"], times["ours"]),
        "floor_s": lowest,
        "times_the_floor": medians["ours"] / lowest,
        "images_a_second": batch / medians["ours"],
    }


def row(name: str, of: dict[str, Any]) -> list[Any]:
    """The cells of a work, by `HEADERS`."""
    low, high = of["ratio_ci95"]
    return [
        name,
        f"{1000 * of['plain_s']:.1f}",
        f"{1000 * of['ours_s']:.1f}",
        f"{of['ratio']:.1f} ({low:.1f} to {high:.1f})",
        f"{1000 * of['floor_s']:.1f}",
        f"{of['times_the_floor']:.2f}",
        f"{of['images_a_second']:.0f}",
    ]


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Time trainings our way, plainly, and beside the floor."""
    _, rates = rates_of(pick_device("cpu"))
    works: dict[str, Any] = {}
    for name in asked.line:
        works[name] = measure(WORKS[name], asked, rates)
        click.echo(f"{name}: {works[name]['ratio']:.1f} times plain")
        rows = [row(known, of) for known, of in works.items()]
        document = {"rates": rates, "works": works}
        results.write(asked.name, document, markdown(HEADERS, rows))


if __name__ == "__main__":
    guard.run(main)
