"""Datasets by name, as uint8 images in memory or mapped from a file: `load_dataset("cifar10", "data")`.

Every source ends as the same `Dataset`: a user's folder or array is as good as CIFAR-10. Pixels stay uint8 until a
preprocessing makes them floats. `condense.data.arrays` reads what fits into memory, `condense.data.folders` what lies
in image files, decoded once (`condense.data.decoded`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from condense.data import arrays, folders
from condense.data.images import Dataset
from condense.errors import UserError, unknown


class Entry(NamedTuple):
    """A dataset by name: a line about it, and how it is loaded."""

    about: str
    load: Callable[[Path, int | None, bool], Dataset]
    """Given the folder of data, the side in pixels (None: the usual one) and whether to download."""


def _imagenet(name: str, usual: int) -> Callable[[Path, int | None, bool], Dataset]:
    return lambda root, resolution, download: folders.imagenet(name, root, resolution or usual)


NAMED = {
    "digits": Entry(
        "8x8 grey, 10 classes: the handwritten digits that scikit-learn carries; needs no files",
        lambda root, resolution, download: arrays.digits(resolution),
    ),
    "mnist": Entry(
        "28x28 grey, 10 classes: handwritten digits",
        partial(arrays.torchvision, "mnist"),
    ),
    "fashionmnist": Entry(
        "28x28 grey, 10 classes: pieces of clothing",
        partial(arrays.torchvision, "fashionmnist"),
    ),
    "svhn": Entry(
        "32x32 RGB, 10 classes: house numbers",
        partial(arrays.torchvision, "svhn"),
    ),
    "cifar10": Entry("32x32 RGB, 10 classes", partial(arrays.torchvision, "cifar10")),
    "cifar100": Entry("32x32 RGB, 100 classes", partial(arrays.torchvision, "cifar100")),
    "tinyimagenet": Entry(
        "64x64 RGB, 200 classes: the folder tiny-imagenet-200",
        lambda root, resolution, download: folders.tiny_imagenet(root, resolution or 64),
    ),
    "imagenet-1k": Entry(
        "64x64 RGB, 1000 classes: a folder with train/<wnid> and val/<wnid>",
        _imagenet("imagenet-1k", 64),
    ),
    "imagenette": Entry(
        "128x128 RGB, 10 easy classes of an ImageNet folder",
        _imagenet("imagenette", 128),
    ),
    "imagewoof": Entry(
        "128x128 RGB, 10 dogs of an ImageNet folder",
        _imagenet("imagewoof", 128),
    ),
    "imagesquawk": Entry(
        "128x128 RGB, 10 birds of an ImageNet folder",
        _imagenet("imagesquawk", 128),
    ),
}
"""The datasets that have a name. Adding one is a file and a line here (docs/extend/dataset.md)."""

DATASETS = {
    **{name: entry.about for name, entry in NAMED.items()},
    "folder:PATH": "your images: PATH/train/<class> and PATH/test/<class> (or val), or PATH/<class>; 32 px unless told",
    "FILE.npz": "your arrays, as in MedMNIST: train_images, train_labels, test_images, test_labels, maybe class_names",
}
"""Everything that `load_dataset` takes, with a line about it."""


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    resolution: int | None = None,
    download: bool = False,
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
    root = _root(data_dir)
    if name.startswith("folder:"):
        return folders.folder(name, None if data_dir is None else root, resolution or 32)
    if name.endswith(".npz"):
        return arrays.npz(name, resolution)
    if name not in NAMED:
        raise unknown("dataset", name, DATASETS)
    return NAMED[name].load(root, resolution, download)


def _root(data_dir: str | Path | None) -> Path:
    return Path("data" if data_dir is None else data_dir).expanduser()


def verify(
    name: str, data_dir: str | Path | None = None, *, resolution: int | None = None
) -> list[str]:
    """Load a dataset and describe in lines what is there; raises `UserError` naming what is missing or damaged."""
    dataset = load_dataset(name, data_dir, resolution=resolution)
    lines = []
    if name in arrays.TORCHVISION:
        lines += [
            f"{path}: md5 {md5}, as expected"
            for path, md5 in arrays.official_files(name, _root(data_dir))
        ]
    for split, images in (("training", dataset.train), ("test", dataset.test)):
        counts, shape = images.counts(), "x".join(map(str, images.shape))
        lines.append(
            f"{len(images)} {split} images {shape} of {len(counts)} classes, {counts.min()} to {counts.max()} a class"
        )
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset came from, so that a resumed run finds it again."""

    name: str
    data_dir: str | None = None
    resolution: int | None = None
    hold_out: int = 0
    """Training images set apart as the test set, for making choices; 0: the real test set."""

    def load(self, *, download: bool = False) -> Dataset:
        """The dataset itself."""
        dataset = load_dataset(
            self.name, self.data_dir, resolution=self.resolution, download=download
        )
        # One split whatever the seed of a run: sets of several seeds are evaluated on the same images.
        return dataset.hold_out(self.hold_out, seed=0) if self.hold_out else dataset
