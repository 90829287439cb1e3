"""Mode `scratch`: networks that are trained from scratch on a memory."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from condense.data.augment import make_augment
from condense.data.images import Images
from condense.networks.accelerate import accelerate
from condense.networks.base import Network
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.training.protocol import Protocol
from condense.training.train import accuracy, train
from continual.memories import union
from continual.plan import MemoryBench
from continual.tasks import ScratchTask


@dataclass(frozen=True, eq=False, kw_only=True)
class ScratchBench(MemoryBench):
    """Everything that the networks of one method share (see `condense.study.workers.Bench`).

    >>> from condense import load_dataset
    >>> from continual.plan import Plan
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> from continual.memories import of_set
    >>> digits, groups = load_dataset("digits"), [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    >>> preprocess = make_preprocess("standard", digits)
    >>> whole = select("random", digits, 2, preprocess=preprocess, seed=0)
    >>> bench = ScratchBench(
    ...     plan=Plan(steps=2, network="convnet-d2-w8", repeats=1),
    ...     memories=[[of_set(whole, group) for group in groups]],
    ...     groups=[groups],
    ...     test=digits.test,
    ...     protocol=Protocol(epochs=1),
    ... )
    >>> bench.run(ScratchTask("random", order=0, repeat=0, step=1))["images"]
    [182, 180]
    """

    test: Images
    protocol: Protocol
    _ready: dict[int, tuple[Network, nn.Module]] = field(
        init=False, repr=False, default_factory=dict
    )
    """The network of the last step that was worked on, plain and accelerated, in this process."""

    def run(self, task: ScratchTask) -> dict[str, Any]:
        """Train one network and test it on the classes of each step so far.

        The result has `accuracies` in [0, 1] and the numbers of test `images` behind them, by step;
        before the last step also `ahead`, as `continual.results.Row` has it.
        The weights, the order of the images and the augmentation are the same for every method.
        """
        memory = union(self.memories[task.order][: task.step + 1]).decoded()
        images, labels = memory.images.to(self.device), memory.labels.to(self.device)
        seed = derive(self.plan.seed, "continual", task.order, task.step)
        network, fast = self._network(task.step)
        initialise(network, seed, task.repeat)
        tests, (pixels, truth) = self._tests(task.order, task.step), self._test
        following = self._tests(task.order, task.step + 1)[task.step + 1 :]
        untrained = [accuracy(fast, pixels[test], truth[test]) for test in following]
        augment = make_augment(self.protocol.augment, memory.preprocess.to(self.device))
        seed = derive(seed, "train", task.repeat)
        train(fast, images, labels, self.protocol, seed, augment=augment)
        result: dict[str, Any] = {
            "accuracies": [accuracy(fast, pixels[test], truth[test]) for test in tests],
            "images": [int(test.sum()) for test in tests],
        }
        for test, before in zip(following, untrained, strict=True):
            result["ahead"] = accuracy(fast, pixels[test], truth[test]) - before
        return result

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        """The preprocessed test images, float32 [N, ch, H, W], and their labels, on the device."""
        # A set from a file may have another preprocessing than the run.
        images = self.memories[0][0].preprocess.apply(self.test.pixels)
        return images.to(self.device), self.test.labels.to(self.device)

    def _tests(self, order: int, step: int) -> list[Tensor]:
        """For each step up to `step`, which test images belong to its classes, bool [N]."""
        groups = self.groups[order][: step + 1]
        return [torch.isin(self.test.labels, torch.tensor(group)) for group in groups]

    def _network(self, step: int) -> tuple[Network, nn.Module]:
        """The network of a step and its fast form, which shares its weights."""
        if step not in self._ready:
            self._ready.clear()
            first = self.memories[0][0]
            network = build(self.plan.network, first.shape, len(first.classes)).to(self.device)
            self._ready[step] = network, accelerate(network, self._pixels(step), self.device)
        return self._ready[step]

    def _pixels(self, step: int) -> int:
        """The pixels that pass through all networks of a step, those done elsewhere included.

        Compiled code rounds differently, so this must not depend on which tasks are left.
        """
        first, images = self.memories[0][0], 0
        # A backward pass costs as much as two forward ones.
        passes = 3 * self.protocol.epochs * first.formation**2
        for order, sets in enumerate(self.memories):
            stored = sum(map(len, sets[: step + 1]))
            tested = int(sum(test.sum() for test in self._tests(order, step)))
            images += self.plan.repeats * (passes * stored + tested)
        return images * first.images[0, 0].numel()
