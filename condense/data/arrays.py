"""Datasets that fit into memory: scikit-learn's digits, torchvision's datasets, a user's `.npz`."""

import hashlib
import warnings
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.data.decoded import square
from condense.data.foreign import read_arrays
from condense.data.images import Dataset, Images, second_of_five
from condense.errors import UserError

# The MD5 of the unpacked files; torchvision lists only those of the archives.
_IDX_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashionmnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
TORCHVISION = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
_NPZ = ("train_images", "train_labels", "test_images", "test_labels")
TEN = [str(digit) for digit in range(10)]

Split = tuple[Tensor, Tensor]
"""Pixels uint8 [N, ch, H, W] of any size and labels int64 [N] in 0..C-1."""


def _dataset(
    name: str, train: Split, test: Split, classes: Sequence[str], resolution: int | None
) -> Dataset:
    """A dataset of square images, all of one size and with the same number of channels."""
    sides = [resolution or min(pixels.shape[2:]) for pixels, _ in (train, test)]
    if sides[0] != sides[1]:
        raise UserError(
            f"{name}: training images of side {sides[0]}, "
            f"test images of side {sides[1]}; give a resolution"
        )
    channels = max(pixels.shape[1] for pixels, _ in (train, test))
    splits = []
    for pixels, labels in (train, test):
        pixels = square(pixels, sides[0]).expand(-1, channels, -1, -1).contiguous()
        splits.append(Images(pixels, labels, tuple(classes)))
    return Dataset(name, *splits)


def digits(resolution: int | None) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8: 1,435 training and 362 test images.

    The grey values 0..16 are scaled to 0..255.

    >>> digits(resolution=None).train.pixels.max()
    tensor(255, dtype=torch.uint8)
    """
    # Read from its file: importing scikit-learn takes longer than most of what is done with them.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    pixels = torch.from_numpy((rows[:, :64] * (255 / 16)).round().astype(np.uint8))
    pixels, labels = pixels.view(-1, 1, 8, 8), torch.from_numpy(rows[:, 64]).long()
    test = second_of_five(labels)
    return _dataset(
        "digits", (pixels[~test], labels[~test]), (pixels[test], labels[test]), TEN, resolution
    )


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, TORCHVISION[name])


def official_files(name: str, root: Path) -> list[tuple[Path, str]]:
    """The path and the official MD5 of every file that torchvision reads for `name`.

    >>> [(path.name, md5[:6]) for path, md5 in official_files("svhn", Path("data"))]
    [('train_32x32.mat', 'e26ded'), ('test_32x32.mat', 'eb5a98')]
    """
    source = _torchvision_class(name)
    if name in _IDX_MD5:
        return [
            (root / source.__name__ / "raw" / file, md5) for file, md5 in _IDX_MD5[name].items()
        ]
    if name == "svhn":
        splits = (source.split_list[split] for split in ("train", "test"))
        return [(root / file, md5) for _, file, md5 in splits]
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    return [(root / source.base_folder / file, md5) for file, md5 in files]


def _fault(name: str, root: Path) -> str | None:
    """What is wrong with the first missing or damaged file of a torchvision dataset, if any is."""
    for path, md5 in official_files(name, root):
        if not path.is_file():
            return (
                f"{path}: missing (expected md5 {md5}); "
                "give the folder with --data-dir, or --download"
            )
        with open(path, "rb") as file:
            actual = hashlib.file_digest(file, "md5").hexdigest()
        if actual != md5:
            return f"{path}: damaged (expected md5 {md5}, found {actual}); delete it and --download"
    return None


def torchvision(name: str, root: Path, resolution: int | None, download: bool) -> Dataset:
    """A torchvision dataset, read from its files below `root`, which must have their official MD5.

    >>> torchvision("mnist", Path("empty"), resolution=None, download=False)
    Traceback (most recent call last):
    condense.errors.UserError: empty/MNIST/raw/train-images-idx3-ubyte: missing ...
    """
    source = _torchvision_class(name)
    keys: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    if name == "svhn":
        keys = [{"split": "train"}, {"split": "test"}]
    fault = _fault(name, root)
    if fault and download:
        try:
            for key in keys:
                source(root, **key, download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"cannot download `{name}` to {root} ({reason}); "
                "fetch it elsewhere and give --data-dir"
            ) from error
        fault = _fault(name, root)
    if fault:
        raise UserError(fault)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4 warns about the arrays pickled in CIFAR
        train, test = (source(root, **key) for key in keys)
    if name == "svhn":  # already has channels first, and label 0 for the digit 0
        pairs = [
            (torch.from_numpy(np.ascontiguousarray(split.data)), torch.from_numpy(split.labels))
            for split in (train, test)
        ]
    else:
        pairs = [
            (_channels_first(np.asarray(split.data)), torch.as_tensor(split.targets))
            for split in (train, test)
        ]
    return _dataset(
        name, pairs[0], pairs[1], TEN if name in ("mnist", "svhn") else train.classes, resolution
    )


def _channels_first(images: np.ndarray) -> Tensor:
    """[N, H, W] or [N, H, W, ch] to [N, ch, H, W]."""
    pixels = torch.from_numpy(images)
    return (pixels[..., None] if pixels.ndim == 3 else pixels).permute(0, 3, 1, 2).contiguous()


def npz(name: str, resolution: int | None) -> Dataset:
    """The dataset in an `.npz` file that follows the MedMNIST convention.

    `train_images` and `test_images` are uint8 [N, H, W] or [N, H, W, 3]. `train_labels` and
    `test_labels` are integers, [N] or [N, 1]; in ascending order they become 0..C-1. The optional
    `class_names` [C] names the classes in that order; without it a class is named by its label.
    Other arrays, such as `val_images`, are not read.

    Raises `UserError` for a file that is missing, damaged or does not follow the convention.

    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> labels = np.array([3, 5, 3, 5])
    >>> np.savez("mine.npz", train_images=images, train_labels=labels,
    ...          test_images=images, test_labels=labels)
    >>> npz("mine.npz", resolution=None).classes
    ('3', '5')
    """
    path = Path(name).expanduser()
    arrays = _read(path)
    splits = [_checked(path, split, arrays) for split in ("train", "test")]
    values, test_values = (np.unique(labels) for _, labels in splits)
    if len(strange := np.setdiff1d(test_values, values)):
        raise UserError(
            f"{path}: label {strange[0]} is in `test_labels` "
            "but not in `train_labels`; remove its images"
        )
    if len(values) == 1:
        raise UserError(
            f"{path}: all labels are {values[0]}, which is one class; two are needed at least"
        )
    names = arrays.get("class_names", values)
    if names.shape != values.shape:
        raise UserError(
            f"{path}: `class_names` has shape {list(names.shape)}, but `train_labels` has images "
            f"of {len(values)} classes; give one name for each, in the order of the labels"
        )
    classes = _names(path, names)
    train, test = (
        (_channels_first(images), torch.from_numpy(np.searchsorted(values, labels)).long())
        for images, labels in splits
    )
    return _dataset(name, train, test, classes, resolution)


def _names(path: Path, names: np.ndarray) -> list[str]:
    """The names of classes as text."""
    if names.dtype.kind not in "USiu":
        raise UserError(f"{path}: `class_names` is {names.dtype}; give text, or whole numbers")
    try:
        return [one.decode() if isinstance(one, bytes) else str(one) for one in names.tolist()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: `class_names` holds bytes that are not UTF-8") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, (*_NPZ, "class_names"))
    if missing := [name for name in _NPZ if name not in arrays]:
        raise UserError(f"{path}: no array `{missing[0]}`; expected {', '.join(_NPZ)}")
    return arrays


def _checked(
    path: Path, split: str, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split and its labels, int64 [N]."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    described = f"{path}: `{split}_images` is {images.dtype} {list(images.shape)}"
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
    ):
        raise UserError(f"{described}; expected uint8 [N, H, W] or [N, H, W, 3]")
    if not images.size:
        raise UserError(f"{described}; expected at least one image")
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise UserError(
            f"{path}: `{split}_labels` is {labels.dtype} {list(labels.shape)}; expected one "
            f"integer an image, [{len(images)}]"
        )
    if len(labels) and int(labels.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{path}: `{split}_labels` holds {labels.max()}, which is too large")
    return images, labels.reshape(-1).astype(np.int64)
