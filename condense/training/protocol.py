"""Protocols: how a network is trained on a set, by name as in the papers."""

import math
from dataclasses import dataclass, replace

from condense.data.augment import suited
from condense.errors import unknown
from condense.settings import above, at_least, require, within

SCHEDULES = {
    "constant": "the rate stays as it is",
    "drop": (
        "after pass `(epochs + 1) // 2 + 1` the rate drops to a tenth and the momentum is reset"
    ),
    "cosine": "the rate falls to 0 along half a cosine, step by step",
    "stairs": "the rate falls to a fifth after two thirds of the steps and after five sixths",
    "fifths": "the rate is halved after each fifth of the steps",
}
"""The schedules of the learning rate, by name."""

OPTIMIZERS = ("sgd", "adamw")
"""The optimisers by name. To `adamw`, the momentum is the first of its two betas."""

LOSSES = {
    "cross-entropy": "for classes, or for probabilities if labels are soft",
    "squared-error": (
        "half the squared distance to the label, which may be any numbers; "
        "a class becomes its one-hot label minus 1 / C"
    ),
}
"""The losses, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a network is trained on a set.

    The defaults are those of DSA and DM, by which most published sets are evaluated: SGD on the
    cross-entropy. Raises `UserError` for a value out of range.

    The loops of DC, DSA, DM, MTT and DataDAM, asked for E epochs, make E + 1 passes and drop the
    rate after pass E // 2 + 2. Here `epochs` is the number of passes that are made, and the same
    rule reads `(epochs + 1) // 2 + 1`. Their 1,000 epochs are 1,001 here.

    >>> Protocol().epochs, Protocol().drop_after, Protocol(epochs=300).drop_after
    (1001, 502, 151)
    >>> Protocol(momentum=1.5)
    Traceback (most recent call last):
    condense.errors.UserError: protocol: `momentum` is 1.5: it must be in [0, 1)
    """

    epochs: int = 1001
    """Passes over the images."""
    optimizer: str = "sgd"
    """One of `OPTIMIZERS`."""
    batch: int = 256
    """Images per step; the last batch of a pass may be smaller."""
    lr: float = 0.01
    """The learning rate that `schedule` starts from."""
    momentum: float = 0.9
    """The momentum, in [0, 1)."""
    weight_decay: float = 5e-4
    """The L2 penalty on every weight; to `adamw`, what it takes off apart from the gradient."""
    augment: str = "dsa"
    """The augmentation of each batch, by name (see `condense.data.augment`)."""
    cutmix: float = 0.0
    """The probability that a batch is then mixed by CutMix, in [0, 1]."""
    schedule: str = "drop"
    """One of `SCHEDULES`."""
    nesterov: bool = False
    """Whether to use Nesterov momentum."""
    steps: int | None = None
    """The number of steps after which training ends early, even in the middle of a pass.

    With None it ends after `epochs`."""
    loss: str = "cross-entropy"
    """One of `LOSSES`, averaged over a batch."""
    learned_rate: bool = False
    """Whether `condense.evaluate` replaces `lr` by the rate that was learned with a set."""

    def __post_init__(self) -> None:
        with within("protocol"):
            at_least(0, self, "epochs", "weight_decay")
            require("epochs", self.epochs, self.epochs <= 1_000_000, "1,000,000 or fewer")
            at_least(1, self, "batch", "steps")
            above(0, self, "lr")
            require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
            nesterov = not self.nesterov or (self.momentum > 0 and self.optimizer == "sgd")
            require("cutmix", self.cutmix, 0 <= self.cutmix <= 1, "in [0, 1]")
            require(
                "nesterov",
                self.nesterov,
                nesterov,
                "False without momentum, and for another optimiser than SGD",
            )
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)

    def steps_of_a_pass(self, images: int) -> int:
        """The number of steps in which all of so many images are seen once.

        >>> Protocol(batch=64).steps_of_a_pass(50_000)
        782
        """
        return math.ceil(images / self.batch)

    def length(self, images: int) -> int:
        """The number of steps of a training on so many images.

        >>> Protocol(epochs=2, batch=64).length(100), Protocol(batch=64, steps=3).length(100)
        (4, 3)
        """
        whole = self.epochs * self.steps_of_a_pass(images)
        return whole if self.steps is None else min(whole, self.steps)

    @property
    def drop_after(self) -> int:
        """The pass, counted from 1, after which the schedule `drop` lowers the rate."""
        return (self.epochs + 1) // 2 + 1

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of `steps` in all.

        `epoch` is the pass that the step belongs to, counted from 1.

        >>> stairs = Protocol(lr=1.0, schedule="stairs")
        >>> [round(stairs.rate(1, step, steps=6), 2) for step in range(6)]
        [1.0, 1.0, 1.0, 1.0, 0.2, 0.04]
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return 0.5 * self.lr * (1 + math.cos(math.pi * step / steps))
        if self.schedule == "stairs":
            return self.lr * 0.2 ** ((3 * step >= 2 * steps) + (6 * step >= 5 * steps))
        if self.schedule == "fifths":
            return self.lr * 0.5 ** (5 * step // steps)
        return self.lr * 0.1 if epoch > self.drop_after else self.lr


PROTOCOLS = {
    "dm": Protocol(),
    "dc": Protocol(epochs=301, augment="none"),
    "datadam-code": Protocol(epochs=1801, batch=64),
    "kip": Protocol(loss="squared-error"),
    "mtt": Protocol(learned_rate=True),
    "idc": Protocol(epochs=1500, batch=64, augment="idc", cutmix=0.5, schedule="stairs"),
    "ncfm": Protocol(
        epochs=2000, batch=64, augment="idc", cutmix=0.5,
        optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="fifths",
    ),
}  # fmt: skip
"""The named protocols: of DSA and DM, of DC on CIFAR, of DataDAM's code, of KIP, MTT, IDC and NCFM.

The published loops were asked for 1,000, 300 and 1,800 epochs; `idc` is what DANCE uses. `ncfm` has
the weight decay that AdamW has in PyTorch unless told otherwise."""


def protocol_for(name: str, dataset_name: str) -> Protocol:
    """The protocol called `name`, one of `PROTOCOLS`, for a dataset.

    If its images are digits, they are not mirrored. Raises `UserError` for an unknown name.

    >>> protocol_for("dm", "mnist").augment, protocol_for("dc", "mnist").augment
    ('dsa-noflip', 'none')
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    return replace(protocol, augment=suited(protocol.augment, dataset_name))
