"""Networks trained from scratch on a memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.networks.accelerate import accelerate
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.sets.condensed import CondensedSet
from condense.training.train import Protocol, accuracy, train


@dataclass(frozen=True)
class Task:
    """One network to train from scratch: on what, from which seed, and which test images of each step to test it on."""

    memory: CondensedSet
    seed: int
    repeat: int
    tests: list[Tensor]
    """Masks of the test images, bool [N], one for each step so far."""


def train_networks(
    tasks: list[Task],
    images: Tensor,
    labels: Tensor,
    network: str,
    protocol: Protocol,
    device: torch.device,
) -> Iterator[list[float]]:
    """The accuracies of each task's network on the parts of the test images [N, ch, H, W], float32, in the tasks' order.

    The one place where the networks of a step (orders x repeats) are trained.
    """
    if not tasks:
        return
    first = tasks[0].memory
    model = build(network, first.shape, len(first.classes)).to(device)
    trained = (
        3 * protocol.epochs * first.formation**2
    )  # passes of a stored image; a backward pass costs two forward ones
    passed = sum(
        trained * len(task.memory) + int(sum(test.sum() for test in task.tests)) for task in tasks
    )
    fast = accelerate(model, passed * images[0, 0].numel(), device)
    augment = make_augment(protocol.augment, first.preprocess.to(device))
    images, labels = images.to(device), labels.to(device)
    for task in tasks:
        initialise(model, task.seed, task.repeat)
        decoded = task.memory.decoded()
        memory, truth = decoded.images.to(device), decoded.labels.to(device)
        train(
            fast, memory, truth, protocol, derive(task.seed, "train", task.repeat), augment=augment
        )
        yield [accuracy(fast, images[test], labels[test]) for test in task.tests]
