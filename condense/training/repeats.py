"""Networks of one architecture that are trained on one set, one after the other."""

import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.networks.accelerate import accelerate
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.sets.condensed import CondensedSet
from condense.training.pace import seconds_a_network
from condense.training.protocol import Protocol
from condense.training.train import accuracy, train


class Repeats:
    """Networks of one architecture that are trained on one set, each from weights of its own.

    They share one network in memory. Whether it is compiled depends on the work of all `repeats`
    networks, however many of them are trained here: so each comes out as if all were.

    name: of the architecture.
    test: images in the space of the set, float32 [N, ch, H, W], and their labels, int64 [N], both
        on `device`.
    seed: with the number of a repeat it determines weights, order and augmentation.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits, cpu = load_dataset("digits"), torch.device("cpu")
    >>> few = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> test = few.preprocess.apply(digits.test.pixels), digits.test.labels
    >>> networks = Repeats("mlp", few, test, 20, Protocol(epochs=2), 0, cpu)
    >>> networks.accuracy(3) == networks.accuracy(3)
    True
    """

    def __init__(
        self,
        name: str,
        condensed: CondensedSet,
        test: tuple[Tensor, Tensor],
        repeats: int,
        protocol: Protocol,
        seed: int,
        device: torch.device,
    ) -> None:
        condensed = condensed.decoded()
        self._test, self._protocol, self._seed = test, protocol, seed
        self._images, self._labels = condensed.images.to(device), condensed.labels.to(device)
        self._augment = make_augment(protocol.augment, condensed.preprocess.to(device))
        self._network = build(name, condensed.shape, len(condensed.classes)).to(device)
        # A backward pass costs two forward ones.
        passed = repeats * (3 * protocol.epochs * len(self._images) + len(test[0]))
        pixels = passed * self._images[0, 0].numel()
        self._fast = accelerate(self._network, pixels, device)

    def accuracy(self, repeat: int) -> float:
        """Train and test network number `repeat`; its accuracy in [0, 1].

        Raises `Diverged` (a `UserError`) when its weights cease to be finite.
        """
        initialise(self._network, self._seed, repeat)
        seed = derive(self._seed, "train", repeat)
        train(self._fast, self._images, self._labels, self._protocol, seed, augment=self._augment)
        return accuracy(self._fast, *self._test)

    def seconds(self) -> float:
        """How long a network takes to be trained and tested: some of its steps are timed."""
        initialise(self._network, self._seed, 0)
        trained = (self._fast, self._images, self._labels, self._protocol, self._test)
        return seconds_a_network(*trained, augment=self._augment)
