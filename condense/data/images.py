"""Labelled images in memory, and a dataset: a training and a test set of them."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from condense.data.decoded import digest
from condense.errors import UserError
from condense.randomness import generator


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images: pixels uint8 [N, ch, H, W], labels int64 [N] in 0..C-1, and the names of the C classes."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    pixel_digest: str | None = field(default=None, repr=False)
    """Hex digest of the pixels where it is already known: a cache knows its own."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(ch, H, W)"""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Images":
        """A copy of the images at `indices` (int64, or bool [N]), in that order."""
        return Images(self.pixels[indices], self.labels[indices], self.classes)

    def of_class(self, c: int) -> Tensor:
        """The indices of class `c`, ascending int64."""
        return (self.labels == c).nonzero().flatten()

    def counts(self) -> Tensor:
        """The number of images of each class, int64 [C]."""
        return self.labels.bincount(minlength=len(self.classes))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters that name the pixels and labels, however they are stored."""
        text = f"{list(self.pixels.shape)} {self.pixel_digest or digest(self.pixels)}"
        return hashlib.blake2b(
            text.encode() + self.labels.cpu().numpy().tobytes(), digest_size=8
        ).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of the same shape and classes. Every class has training images."""

    name: str
    train: Images
    test: Images
    held_out: bool = field(default=False, kw_only=True)
    """Whether the test images are training images that were held out."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(ch, H, W)"""
        return self.train.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes."""
        return self.train.classes

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the training images."""
        return self.train.fingerprint

    @property
    def tested_on(self) -> str:
        """The test images in words.

        >>> from condense.data.catalogue import load_dataset
        >>> digits = load_dataset("digits")
        >>> digits.tested_on, digits.hold_out(100, seed=0).tested_on
        ('362 test images of digits', '100 held-out training images of digits')
        """
        kind = "held-out training" if self.held_out else "test"
        return f"{len(self.test)} {kind} images of {self.name}"

    def hold_out(self, count: int, seed: int) -> "Dataset":
        """The training images without `count` of them, which become the test set: for choices.

        Stratified: a class gives its proportional share, rounded by largest remainder, and keeps at least one image.
        """
        counts = self.train.counts()
        if not 1 <= count <= int((counts - 1).sum()):
            raise UserError(
                f"cannot hold out {count} of the {len(self.train)} training images of `{self.name}`: "
                f"choose 1 to {int((counts - 1).sum())}, so that every class keeps one"
            )
        held = torch.zeros(len(self.train), dtype=torch.bool)
        for c, quota in enumerate(_quotas(counts, count).tolist()):
            members = self.train.of_class(c)
            held[
                members[
                    torch.randperm(len(members), generator=generator(seed, "hold-out", c))[:quota]
                ]
            ] = True
        return Dataset(self.name, self.train.subset(~held), self.train.subset(held), held_out=True)


def _quotas(counts: Tensor, total: int) -> Tensor:
    """Shares of `total` in proportion to `counts` [C], by largest remainder; a class keeps at least one."""
    shares = counts * total
    quotas = shares // counts.sum()
    by_remainder = (shares % counts.sum()).argsort(descending=True, stable=True)
    while left := total - int(quotas.sum()):
        able = by_remainder[(quotas < counts - 1)[by_remainder]]
        quotas[able[:left]] += 1
    return quotas


def second_of_five(labels: Tensor) -> Tensor:
    """The mask of the test images, bool [N]: in each class the second of every five."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        mask[(labels == c).nonzero().flatten()[1::5]] = True
    return mask
