"""Load a dataset by name: `load_dataset("cifar10", "data")`.

Every source gives the same kind of `Dataset`, whether it is CIFAR-10 or a user's own folder or
array. Pixels stay uint8 until a preprocessing step turns them into floats. `condense.data.arrays`
reads what fits into memory. `condense.data.folders` reads image files, which are decoded once and
then mapped into memory (`condense.data.decoded`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from condense.data import arrays, folders, parquet
from condense.data.images import Dataset
from condense.data.names import located
from condense.errors import UserError, unknown
from condense.reading import usable_path
from condense.settings import at_least, require

LARGEST_SIDE = 4096
"""The largest side in pixels to which images are resized."""


class Entry(NamedTuple):
    """A dataset by name: a line about it, and how it is loaded.

    >>> NAMED["digits"].load(Path("data"), None, False).classes[:3]
    ('0', '1', '2')
    """

    about: str
    load: Callable[[Path, int | None, bool], Dataset]
    """Given the folder of data, the side in pixels (None.

    The usual one) and whether to download.
    """


def _imagenet(name: str, usual: int) -> Callable[[Path, int | None, bool], Dataset]:
    return lambda root, resolution, download: folders.imagenet(name, root, resolution or usual)


NAMED = {
    "digits": Entry(
        "8x8 grey, 10 classes: the handwritten digits that scikit-learn carries; needs no files",
        lambda root, resolution, download: arrays.digits(resolution),
    ),
    "mnist": Entry(
        "28x28 grey, 10 classes: handwritten digits", partial(arrays.torchvision, "mnist")
    ),
    "fashionmnist": Entry(
        "28x28 grey, 10 classes: pieces of clothing", partial(arrays.torchvision, "fashionmnist")
    ),
    "svhn": Entry("32x32 RGB, 10 classes: house numbers", partial(arrays.torchvision, "svhn")),
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
        "128x128 RGB, 10 easy classes of an ImageNet folder", _imagenet("imagenette", 128)
    ),
    "imagewoof": Entry("128x128 RGB, 10 dogs of an ImageNet folder", _imagenet("imagewoof", 128)),
    "imagesquawk": Entry(
        "128x128 RGB, 10 birds of an ImageNet folder", _imagenet("imagesquawk", 128)
    ),
}
"""The datasets that have a name. Adding one is a file and a line here (docs/extend/dataset.md)."""

DATASETS = {
    **{name: entry.about for name, entry in NAMED.items()},
    "folder:PATH": (
        "your images: PATH/train/<class> and PATH/test/<class> (or val), "
        "or PATH/<class>; 32 px by default"
    ),
    "hf:PATH": (
        "Parquet files as Hugging Face `datasets` writes them, in the folder PATH, or a dataset of "
        "the hub by its name; needs pyarrow (`pip install 'condensekit[hf]'`)"
    ),
    "FILE.npz": (
        "your arrays, named as in MedMNIST: train_images, train_labels, test_images, test_labels "
        "and optionally class_names"
    ),
}
"""The names that `load_dataset` accepts, each with a line about the dataset."""


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    resolution: int | None = None,
    download: bool = False,
) -> Dataset:
    """Load the dataset called `name`.

    Parameters
    ----------
    name: one of `DATASETS`.
    data_dir: the folder that holds the files; ./data by default.
    resolution: the side of the images in pixels. The shorter side is resized to it (bilinear,
        antialiased) and the centre is cropped. By default a named dataset keeps its usual size
        (64 for ImageNet, 128 for its subsets), an array keeps its own size (its centre square), as
        do the images of `hf:PATH`, which must then have one size,
        and the images of `folder:PATH` become 32 px.
    download: whether to download missing files of mnist, fashionmnist, svhn, cifar10 or cifar100.

    A folder or array without test images is split by a fixed rule: in each class, the second of
    every five images becomes a test image. Images are counted in the order of their file names (or
    of scikit-learn's digits). A folder or array in which all images are greyscale has one channel;
    any other has three.

    Raises `UserError` for an unknown name, and for missing or damaged data, naming the file.

    >>> digits = load_dataset("digits")
    >>> digits.train.pixels.shape, digits.train.pixels.dtype
    (torch.Size([1435, 1, 8, 8]), torch.uint8)
    >>> len(digits.test)
    362
    >>> load_dataset("digits", resolution=16).shape
    (1, 16, 16)
    """
    require("name", name, isinstance(name, str), "text")
    if resolution is not None and not 1 <= resolution <= LARGEST_SIDE:
        raise UserError(
            f"resolution {resolution} is not a side in pixels: give 1 to {LARGEST_SIDE}"
        )
    root = _root(data_dir)
    if name.startswith("folder:"):
        return folders.folder(name, None if data_dir is None else root, resolution or 32)
    if name.startswith("hf:"):
        return parquet.hugging_face(name, resolution)
    if name.endswith(".npz"):
        return arrays.npz(str(usable_path(name)), resolution)
    if name not in NAMED:
        own = {name: f"folder:{name}"} if usable_path(name).is_dir() else {}
        raise unknown("dataset", name, DATASETS, own)
    return NAMED[name].load(root, resolution, download)


def _root(data_dir: str | Path | None) -> Path:
    return usable_path("data" if data_dir is None else data_dir)


def verify(
    name: str, data_dir: str | Path | None = None, *, resolution: int | None = None
) -> list[str]:
    """Load a dataset and describe what is there, as lines of text.

    Raises `UserError` that names the file if data is missing or damaged.

    >>> for line in verify("digits"):
    ...     print(line)
    1435 training images 1x8x8 of 10 classes, 139 to 146 a class
    362 test images 1x8x8 of 10 classes, 35 to 37 a class
    """
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
            f"{len(images)} {split} images {shape} of {len(counts)} classes, {counts.min()} to "
            f"{counts.max()} a class"
        )
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset comes from, so that a resumed run can load it again.

    >>> len(Source(name="digits", hold_out=100).load().test)
    100
    """

    name: str
    """One of `DATASETS`; a relative path in it becomes absolute."""
    data_dir: str | None = None
    """The folder that holds the files."""
    resolution: int | None = None
    """The side of the images in pixels; None for the usual one."""
    hold_out: int = 0
    """The number of training images that serve as the test set, for making choices.

    With 0 the real test set is used."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", located(self.name))
        at_least(1, self, "resolution")
        at_least(0, self, "hold_out")

    def load(self, *, download: bool = False) -> Dataset:
        """Load the dataset."""
        dataset = load_dataset(
            self.name, self.data_dir, resolution=self.resolution, download=download
        )
        # The split does not depend on the seed of a run, so that sets condensed with different
        # seeds are evaluated on the same images.
        return dataset.hold_out(self.hold_out, seed=0) if self.hold_out else dataset
