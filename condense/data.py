"""Datasets by name, as uint8 images in memory or mapped from a file: `load_dataset("cifar10", "data")`.

Every source ends as the same `Dataset`: a user's folder or array is as good as CIFAR-10. Pixels stay uint8 until a
preprocessing makes them floats. `condense.arrays` reads what fits into memory, `condense.folders` what lies in image
files, decoded once (`condense.cache`).
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from condense.cache import digest
from condense.errors import UserError, unknown
from condense.randomness import generator

DATASETS = {
    "digits": "8x8 grey, 10 classes: the handwritten digits that scikit-learn carries; needs no files",
    "mnist": "28x28 grey, 10 classes: handwritten digits",
    "fashionmnist": "28x28 grey, 10 classes: pieces of clothing",
    "svhn": "32x32 RGB, 10 classes: house numbers",
    "cifar10": "32x32 RGB, 10 classes",
    "cifar100": "32x32 RGB, 100 classes",
    "tinyimagenet": "64x64 RGB, 200 classes: the folder tiny-imagenet-200",
    "imagenet-1k": "64x64 RGB, 1000 classes: a folder with train/<wnid> and val/<wnid>",
    "imagenette": "128x128 RGB, 10 easy classes of an ImageNet folder",
    "imagewoof": "128x128 RGB, 10 dogs of an ImageNet folder",
    "imagesquawk": "128x128 RGB, 10 birds of an ImageNet folder",
    "folder:PATH": "your images: PATH/train/<class> and PATH/test/<class> (or val), or PATH/<class>; 32 px unless told",
    "FILE.npz": "your arrays, as in MedMNIST: train_images, train_labels, test_images, test_labels, maybe class_names",
}


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
        return hashlib.blake2b(text.encode() + self.labels.cpu().numpy().tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of the same shape and classes. Every class has training images."""

    name: str
    train: Images
    test: Images

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
            held[members[torch.randperm(len(members), generator=generator(seed, "hold-out", c))[:quota]]] = True
        return Dataset(self.name, self.train.subset(~held), self.train.subset(held))


def load_dataset(
    name: str, data_dir: str | Path | None = None, *, resolution: int | None = None, download: bool = False
) -> Dataset:
    """The dataset called `name`, one of `DATASETS`; its files are looked for in `data_dir` (default: ./data).

    `resolution` is the side in pixels: the shorter side is resized to it (bilinear, antialiased) and the centre
    cropped. None keeps the usual one of a named set (ImageNet 64, its subsets 128), the own size of an array (its
    centre square), and means 32 for `folder:PATH`. `download` fetches missing files of mnist, fashionmnist, svhn,
    cifar10 and cifar100.

    What has no test images of its own is split by a fixed rule: the second of every five images of a class, in the
    order of the file names (or of scikit-learn's digits), is a test image. Folders and arrays whose images are all
    greyscale have one channel, others three.

    Raises `UserError` for an unknown name and for missing or damaged data, naming the file.
    """
    if resolution is not None and resolution < 1:
        raise UserError(f"resolution {resolution} is not a side in pixels: give 1 or more")
    from condense import arrays, folders  # they stand on the types above

    root = _root(data_dir)
    if name.startswith("folder:"):
        return folders.folder(name, None if data_dir is None else root, resolution or 32)
    if name.endswith(".npz"):
        return arrays.npz(name, resolution)
    if name == "digits":
        return arrays.digits(resolution)
    if name in arrays.TORCHVISION:
        return arrays.torchvision(name, root, resolution, download)
    if name == "tinyimagenet":
        return folders.tiny_imagenet(root, resolution or 64)
    if name == "imagenet-1k":
        return folders.imagenet(name, root, resolution or 64)
    if name in folders.IMAGENET_SUBSETS:
        return folders.imagenet(name, root, resolution or 128)
    raise unknown("dataset", name, DATASETS)


def _root(data_dir: str | Path | None) -> Path:
    return Path("data" if data_dir is None else data_dir).expanduser()


def verify(name: str, data_dir: str | Path | None = None, *, resolution: int | None = None) -> list[str]:
    """Load a dataset and describe in lines what is there; raises `UserError` naming what is missing or damaged."""
    from condense import arrays

    dataset = load_dataset(name, data_dir, resolution=resolution)
    lines = []
    if name in arrays.TORCHVISION:
        lines += [f"{path}: md5 {md5}, as expected" for path, md5 in arrays.official_files(name, _root(data_dir))]
    for split, images in (("training", dataset.train), ("test", dataset.test)):
        counts, shape = images.counts(), "x".join(map(str, images.shape))
        lines.append(f"{len(images)} {split} images {shape} of {len(counts)} classes, {counts.min()} to {counts.max()} a class")
    return lines


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
