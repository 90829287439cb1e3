"""Training networks on a condensed set: plainly, against our way, and against several at once.

Several at once are stacked with `torch.func`, or, on a GPU, captured as a graph each and replayed
on as many streams. There are three results: seconds a pass of each way, turn by turn in one
process; that networks trained our way (compiled, in blocks, and in bfloat16 where the device is
made for it) are as accurate as plainly trained ones, as the difference of their mean accuracies
with its interval; and what a full evaluation takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks import results
from benchmarks.options import Benchmark
from benchmarks.step import seconds
from condense import CondensedSet, Protocol, load_dataset
from condense.command import guard
from condense.data.augment import make_augment
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.device import pick_device
from condense.methods.selection import select
from condense.networks.accelerate import Accelerated, block_size
from condense.networks.build import build, initialise
from condense.networks.graph import Graphed
from condense.randomness import derive
from condense.report.tables import markdown, percent
from condense.training.train import accuracy, train

STACK = 4
"""Networks trained at once."""


def steps(
    condensed: CondensedSet, device: torch.device
) -> dict[str, tuple[int, Callable[[], Any]]]:
    """One forward and backward pass over the set by each way, and how many networks make it."""
    images, labels = condensed.images.to(device), condensed.labels.to(device)
    shape, num_classes = condensed.shape, len(condensed.classes)
    plain, fast, *many = (build("convnet", shape, num_classes).to(device) for _ in range(2 + STACK))
    parameters, buffers = stack_module_state(many)

    def loss(weights: dict[str, Tensor], extra: dict[str, Tensor], batch: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(plain, (weights, extra), (batch,)), labels)

    gradients = vmap(grad(loss), in_dims=(0, 0, None))

    def ours(network: nn.Module) -> Callable[[], None]:
        accelerated, block = Accelerated(network, device), block_size(images, device)

        def once() -> None:
            network.zero_grad()
            for part, truth in zip(images.split(block), labels.split(block), strict=True):
                loss = F.cross_entropy(accelerated(part), truth, reduction="sum") / len(images)
                loss.backward()

        return once

    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "plain": (1, lambda: F.cross_entropy(plain(images), labels).backward()),
        "ours": (1, ours(fast)),
        f"stacked, {STACK} at once": (STACK, lambda: gradients(parameters, buffers, images)),
    }
    if device.type == "cuda":
        graphs = [Graphed(ours(network), [images]) for network in many]
        ways["ours, a graph"] = (1, graphs[0])
        ways[f"ours, a graph on each of {STACK} streams"] = (STACK, on_streams(graphs))
    return ways


def on_streams(works: list[Graphed]) -> Callable[[], None]:
    """All `works` at the same time."""
    streams = [torch.cuda.Stream() for _ in works]

    def once() -> None:
        here = torch.cuda.current_stream()
        for stream, work in zip(streams, works, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                work()
        for stream in streams:
            here.wait_stream(stream)

    return once


def timed(
    ways: dict[str, tuple[int, Callable[[], Any]]], turns: int, device: torch.device
) -> dict[str, float]:
    """The median seconds a network of each way, all ways in each turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-2, turns):
        for name, (networks, way) in ways.items():
            spent = seconds(way, device)
            if turn >= 0:
                taken[name].append(spent / networks)
    return {name: float(torch.tensor(times).median()) for name, times in taken.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is compared."""

    data_dir: str | None = None
    """Folder with CIFAR-10 as torchvision keeps it."""
    ipc: int = 10
    """Images per class of the set."""
    epochs: int = 100
    """Passes of a training."""
    repeats: int = 8
    """Networks trained by each way."""
    turns: int = 7
    """Counted passes of each way."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    name: str = "evaluate"
    """Name of the result files."""


def trained(
    condensed: CondensedSet, real: Dataset, asked: Asked, device: torch.device, *, plain: bool
) -> dict:
    """Accuracies of the networks, and seconds a network; other seeds for plain ones."""
    images, labels = condensed.images.to(device), condensed.labels.to(device)
    test = condensed.preprocess.apply(real.test.pixels).to(device), real.test.labels.to(device)
    network = build("convnet", condensed.shape, len(condensed.classes)).to(device)
    model = network if plain else Accelerated(network, device)
    augment, accuracies = make_augment("dsa"), []
    began = time.perf_counter()
    for repeat in range(asked.repeats):
        initialise(network, derive(int(plain), "benchmark"), repeat)
        seed = derive(int(plain), "train", repeat)
        train(model, images, labels, Protocol(epochs=asked.epochs), seed, augment=augment)
        accuracies.append(accuracy(model, *test))
    taken = (time.perf_counter() - began) / asked.repeats
    return {"accuracies": accuracies, "seconds_a_network": taken}


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Compare ways of training networks on a set of CIFAR-10."""
    place, real = pick_device(asked.device), load_dataset("cifar10", asked.data_dir)
    preprocess = make_preprocess("standard", real)
    condensed = select("random", real, asked.ipc, preprocess=preprocess, seed=0)
    a_network = timed(steps(condensed, place), asked.turns, place)
    samples = {
        way: trained(condensed, real, asked, place, plain=way == "plain")
        for way in ("plain", "ours")
    }
    ours, plain = (samples[way]["accuracies"] for way in ("ours", "plain"))
    low, high = stats.ttest_ind(ours, plain, equal_var=False).confidence_interval(0.95)
    document = {
        "ipc": asked.ipc,
        "epochs": asked.epochs,
        "seconds_a_step_and_network": a_network,
        "trainings": samples,
        "difference_ci95": [float(low), float(high)],
    }
    faster = "times as fast as plain"
    passes = [[w, f"{s:.4f}", f"{a_network['plain'] / s:.2f}"] for w, s in a_network.items()]
    trainings = [
        [way, percent(of["accuracies"], between=", "), f"{of['seconds_a_network']:.1f}"]
        for way, of in samples.items()
    ]
    lines = [
        f"CIFAR-10, {asked.ipc} random real images per class, ConvNet (depth 3, width 128, "
        "instance norm).",
        "",
        *markdown(("way", "seconds a pass over the set, one network", faster), passes),
        "",
        f"{asked.repeats} networks by each way, {asked.epochs} passes, tested on "
        f"{len(real.test)} images:",
        "",
        *markdown(("way", "accuracies, %", "seconds a network, testing included"), trainings),
        "",
        f"Ours less plain: 95 % interval of the difference of the means {100 * low:+.2f} to "
        f"{100 * high:+.2f} points (Welch).",
    ]
    click.echo("\n".join(lines))
    results.write(asked.name, document, lines)


if __name__ == "__main__":
    guard.run(main)
