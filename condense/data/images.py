"""Labelled images in memory, and datasets that consist of a training and a test set."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from condense.data.decoded import digest
from condense.data.names import called
from condense.errors import UserError
from condense.randomness import generator


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

    >>> pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    >>> images = Images(pixels, torch.tensor([0, 1, 1]), ("cat", "dog"))
    >>> images.counts()
    tensor([1, 2])
    >>> images.of_class(1)
    tensor([1, 2])
    >>> len(images.subset(images.labels == 1))
    2
    """

    pixels: Tensor
    """uint8 [N, ch, H, W]."""
    labels: Tensor
    """int64 [N], in 0..C-1."""
    classes: tuple[str, ...]
    """The names of the C classes."""
    pixel_digest: str | None = field(default=None, repr=False)
    """Hex digest of the pixels if it is already known, as for images from a cache."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (channels, height, width)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Images":
        """A copy of the images at `indices`, int64 in any order, or a mask, bool [N]."""
        return Images(self.pixels[indices], self.labels[indices], self.classes)

    def of_class(self, c: int) -> Tensor:
        """The indices of the images of class `c`, int64 in ascending order."""
        return (self.labels == c).nonzero().flatten()

    def counts(self) -> Tensor:
        """The number of images of each class, int64 [C]."""
        return self.labels.bincount(minlength=len(self.classes))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify pixels and labels, however they are stored."""
        text = f"{list(self.pixels.shape)} {self.pixel_digest or digest(self.pixels)}"
        return hashlib.blake2b(
            text.encode() + self.labels.cpu().numpy().tobytes(), digest_size=8
        ).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set with the same image shape and the same classes.

    Every class has training images.

    >>> from condense import load_dataset
    >>> digits = load_dataset("digits")
    >>> digits.shape, len(digits.classes)
    ((1, 8, 8), 10)
    >>> digits.hold_out(100, seed=0)
    Dataset digits: 1335 + 100 images, (1, 8, 8), 10 classes
    """

    name: str
    train: Images
    test: Images
    held_out: bool = field(default=False, kw_only=True)
    """Whether the test images are training images that were held out."""

    def __repr__(self) -> str:
        images = f"{len(self.train)} + {len(self.test)} images"
        return f"Dataset {self.name}: {images}, {self.shape}, {len(self.classes)} classes"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (channels, height, width)."""
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
    def called(self) -> str:
        """The name without the folders that the files are in, for whatever is given away."""
        return called(self.name)

    @property
    def tested_on(self) -> str:
        """The test images in words.

        >>> from condense.data.catalogue import load_dataset
        >>> digits = load_dataset("digits")
        >>> digits.tested_on, digits.hold_out(100, seed=0).tested_on
        ('362 test images of digits', '100 held-out training images of digits')
        """
        kind = "held-out training" if self.held_out else "test"
        return f"{len(self.test)} {kind} images of {self.called}"

    def hold_out(self, count: int, seed: int) -> "Dataset":
        """A dataset for making choices: `count` of the training images become its test set.

        Every class gives its proportional share, rounded by largest remainder, and keeps at least
        one training image. Raises `UserError` for a `count` that would leave a class without any.
        """
        counts = self.train.counts()
        if not 1 <= count <= int((counts - 1).sum()):
            raise UserError(
                f"cannot hold out {count} of the {len(self.train)} training images of "
                f"`{self.name}`: choose 1 to {int((counts - 1).sum())}, "
                "so that every class keeps one"
            )
        held = torch.zeros(len(self.train), dtype=torch.bool)
        for c, quota in enumerate(_quotas(counts, count).tolist()):
            members = self.train.of_class(c)
            order = torch.randperm(len(members), generator=generator(seed, "hold-out", c))
            held[members[order[:quota]]] = True
        return Dataset(self.name, self.train.subset(~held), self.train.subset(held), held_out=True)


def _quotas(counts: Tensor, total: int) -> Tensor:
    """Divide `total` in proportion to `counts` [C], by largest remainder.

    Each class keeps at least one of its images.
    """
    shares = counts * total
    quotas = shares // counts.sum()
    by_remainder = (shares % counts.sum()).argsort(descending=True, stable=True)
    while left := total - int(quotas.sum()):
        able = by_remainder[(quotas < counts - 1)[by_remainder]]
        quotas[able[:left]] += 1
    return quotas


def second_of_five(labels: Tensor) -> Tensor:
    """The mask of the test images, bool [N]: in each class the second of every five images.

    >>> second_of_five(torch.zeros(7, dtype=torch.int64)).tolist()
    [False, True, False, False, False, False, True]
    """
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        mask[(labels == c).nonzero().flatten()[1::5]] = True
    return mask
