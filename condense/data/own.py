"""Datasets that a program already holds: torch, torchvision, Hugging Face, NumPy.

`as_dataset` makes a `Dataset` of them. It reads every image once and keeps it as uint8 pixels.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condense.data.arrays import TEN, TORCHVISION
from condense.data.decoded import square
from condense.data.foreign import eight_bits, opaque, upright
from condense.data.images import Dataset, Images, second_of_five
from condense.errors import UserError, reason
from condense.files import is_ordinary
from condense.settings import within
from condense.words import counted

Own = Any
"""What `as_dataset` takes for one split, or for both."""

_GREY = ("1", "L", "LA", "La")
_SPLITS = ("test", "validation", "valid", "val")
"""What the images to test on are called, the first that is there."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The images of one split as they come, before all have one shape.

    >>> two = Labelled(images=[torch.zeros(1, 8, 8).byte()] * 2, labels=np.array([3, 5]))
    >>> joined("own", two, None, resolution=4).shape
    (1, 4, 4)
    """

    images: Iterable[Tensor]
    """uint8 [1 or 3, H, W] each; read once."""
    labels: np.ndarray
    """Whole numbers [N]; in ascending order they become 0..C-1."""
    names: Sequence[str] | None = None
    """The names of the labels that may occur, from 0 on. Unless given, a label names itself."""


def as_dataset(
    train: Own, test: Own = None, *, name: str | None = None, resolution: int | None = None
) -> Dataset:
    """The `Dataset` of images and labels that a program holds.

    Parameters
    ----------
    train: the images to condense, as one of
        - a map-style torch `Dataset` of (image, label) pairs, such as those of torchvision. An
          image is a PIL image, uint8 pixels, or floats in [0, 1] as `ToTensor` gives them. Its
          attribute `classes`, if it has one, names the classes;
        - a Hugging Face `Dataset` with an `Image` and a `ClassLabel` feature;
        - a pair (images, labels) of arrays or tensors: uint8 or floats in [0, 1], [N, H, W],
          [N, H, W, ch] or [N, ch, H, W];
        - a mapping with `train` and, to test on, `test` or `validation`: a Hugging Face
          `DatasetDict`, for example;
        - a `Dataset` of this package, which is returned as it is.
    test: the images to test networks on, in any of these forms. Without them a set can be
        condensed, but not evaluated.
    name: what the settings that depend on a dataset go by: with `mnist`, images are not mirrored.
        Unless given, it is that of a dataset of torchvision, and `own` for any other.
    resolution: the side in pixels to which images are resized and centre-cropped. Unless given,
        all images must have one size, of which the centre square is taken.

    Labels are whole numbers; in ascending order they become 0..C-1, so that a part of the classes
    may be given. A transform must not be random: the set remembers the pixels it was made from.

    Raises `UserError` for anything else, naming the image.

    >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.array([0, 1, 2, 0, 1, 2])
    >>> mine = as_dataset((images, labels), name="mine")
    >>> mine.shape, mine.classes, len(mine.train), len(mine.test)
    ((1, 8, 8), ('0', '1', '2'), 6, 0)
    >>> pairs = torch.utils.data.TensorDataset(torch.rand(6, 3, 8, 8), torch.tensor(labels))
    >>> as_dataset(pairs, pairs).tested_on
    '6 test images of own'
    """
    if isinstance(train, Dataset) and test is None:
        return train
    if isinstance(train, Mapping):
        if "train" not in train:
            raise UserError(
                f"no `train` among {', '.join(map(str, train))}: name the images to condense "
                "`train`, or give a pair (images, labels)"
            )
        if test is None:
            test = next((train[split] for split in _SPLITS if split in train), None)
        train = train["train"]
    name = name or _name(train)
    with within("the training images"):
        first = _labelled(train)
    with within("the test images"):
        second = None if test is None else _labelled(test)
    return joined(name, first, second, resolution)


def joined(
    name: str,
    train: Labelled,
    test: Labelled | None,
    resolution: int | None,
    *,
    split: bool = False,
) -> Dataset:
    """The dataset of two splits: square images of one size, in colour if any image is.

    Without `test` it has no test images; with `split`, the second of every five training images of
    a class then becomes one. Raises `UserError` as `as_dataset` does.

    >>> grey = Labelled(images=[torch.zeros(1, 8, 8).byte()] * 10, labels=np.arange(10) % 2)
    >>> dataset = joined("grey", grey, None, None, split=True)
    >>> len(dataset.train), len(dataset.test)
    (8, 2)
    """
    for part, what in ((train, "train on"), (test, "test on")):
        if part is not None and not len(part.labels):
            raise UserError(f"{name}: there are no images to {what}")
    values = np.unique(train.labels)
    if len(values) < 2:
        raise UserError(f"{name} has images of {len(values)} class: two are needed at least")
    if train.names is not None and not 0 <= values[0] <= values[-1] < len(train.names):
        wrong = values[0] if values[0] < 0 else values[-1]
        raise UserError(f"{name}: a label is {wrong}, but there are {len(train.names)} classes")
    pixels = _stacked(f"training image of {name}", train.images, resolution)
    side = min(pixels.shape[2:])
    if test is None:
        parts = _held_out(name, square(pixels, side), train.labels, split)
    else:
        if len(strange := np.setdiff1d(test.labels, values)):
            raise UserError(f"{name}: label {strange[0]} has test images, but none to train on")
        tested = _stacked(f"test image of {name}", test.images, resolution)
        if tested.shape[2:] != pixels.shape[2:]:
            raise UserError(
                f"{name}: the test images have {_size(tested[0])}, the training images "
                f"{_size(pixels[0])}: give a resolution to which all are resized"
            )
        parts = [(square(pixels, side), train.labels), (square(tested, side), test.labels)]
    channels = max(part.shape[1] for part, _ in parts)
    classes = tuple(train.names[value] if train.names else str(value) for value in values)
    images = [
        Images(
            part.expand(-1, channels, -1, -1).contiguous(),
            torch.from_numpy(np.searchsorted(values, own)).long(),
            classes,
        )
        for part, own in parts
    ]
    return Dataset(name, *images)


def _held_out(
    name: str, pixels: Tensor, labels: np.ndarray, split: bool
) -> list[tuple[Tensor, np.ndarray]]:
    """Images to train on and, with `split`, some of them to test on instead."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    if split and not (held := second_of_five(torch.from_numpy(labels))).any():
        raise UserError(f"{name}: one image a class leaves none for testing; add images")
    return [(pixels[part], labels[part.numpy()]) for part in (~held, held)]


def pixels_of(image: Any) -> Tensor:
    """An image as uint8 [1 or 3, H, W]: a PIL image, an array, or a tensor.

    Raises `UserError` for values that are no pixels.

    >>> pixels_of(Image.new("RGB", (4, 3), "red"))[:, 0, 0]
    tensor([255,   0,   0], dtype=torch.uint8)
    >>> pixels_of(torch.tensor([[[0.0, 0.5, 1.0]]]))
    tensor([[[  0, 128, 255]]], dtype=torch.uint8)
    >>> pixels_of(torch.tensor([[[-1.0]]]))
    Traceback (most recent call last):
    condense.errors.UserError: its values are -1 to -1, not pixels in [0, 1]: ...
    """
    if isinstance(image, Image.Image):
        return _pixels_of_picture(image)
    if not isinstance(image, Tensor | np.ndarray):
        raise UserError(f"a {type(image).__name__} is no image: give PIL images, arrays or tensors")
    pixels = _tensor(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] not in (1, 3) and pixels.shape[2] in (1, 3):
        pixels = pixels.movedim(2, 0)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not pixels.numel():
        raise UserError(
            f"it has shape {list(image.shape)}: an image is [H, W], or has 1 or 3 channels"
        )
    return as_uint8(pixels)


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    """Numbers as an ordinary tensor. Raises `UserError` for anything else."""
    if isinstance(values, np.ndarray):
        try:  # torch has no negative strides, and one order of bytes
            kept = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
            return torch.as_tensor(kept)
        except TypeError:
            raise UserError(f"its values are {values.dtype}, which torch does not have") from None
    if not is_ordinary(values):
        raise UserError("it is no ordinary tensor with content: make it dense first")
    return values


def _pixels_of_picture(image: Image.Image) -> Tensor:
    kind = "L" if image.mode in _GREY or image.mode.startswith("I") else "RGB"
    kept = np.array(eight_bits(opaque(upright(image))).convert(kind))
    return torch.from_numpy(kept.reshape(*kept.shape[:2], -1)).movedim(-1, 0)


def as_uint8(pixels: Tensor) -> Tensor:
    """Pixels as uint8: themselves, or 255 times floats in [0, 1], rounded; of any shape.

    Raises `UserError` for other values.

    >>> as_uint8(torch.tensor([0.0, 0.2, 1.0]))
    tensor([  0,  51, 255], dtype=torch.uint8)
    """
    if pixels.dtype == torch.uint8:
        return pixels
    kind = str(pixels.dtype).removeprefix("torch.")
    if not pixels.is_floating_point():
        raise UserError(f"its values are {kind}: pixels are uint8, or floats in [0, 1]")
    if not pixels.isfinite().all():
        raise UserError("some of its values are NaN or infinite: repair or remove the image")
    low, high = (float(end) for end in torch.aminmax(pixels.float()))
    if low >= 0 and high <= 1:
        return (pixels * 255).round().to(torch.uint8)
    raise UserError(
        f"its values are {low:.3g} to {high:.3g}, not pixels in [0, 1]: "
        + (
            "give the images before they are normalised"
            if low < 0
            else "divide them by 255, or convert them to uint8"
        )
    )


def _stacked(what: str, images: Iterable[Tensor], resolution: int | None) -> Tensor:
    """Images of one size as one tensor, uint8 [N, 1 or 3, H, W]: squares with a resolution."""
    kept: list[Tensor] = []
    for number, pixels in enumerate(images):
        if resolution:
            pixels = square(pixels[None], resolution)[0]
        elif kept and pixels.shape[1:] != kept[0].shape[1:]:
            raise UserError(
                f"{what} {number} has {_size(pixels)}, the first one {_size(kept[0])}: give a "
                "resolution to which all are resized"
            )
        kept.append(pixels)
    channels = max(len(pixels) for pixels in kept)
    return torch.stack([pixels.expand(channels, -1, -1) for pixels in kept])


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[2]} px"


# ---- the kinds of datasets


def _name(data: Own) -> str:
    """The name of a dataset of torchvision, also of a part of one; `own` for any other."""
    data = _whole(data)
    known = {kind: name for name, kind in TORCHVISION.items()}
    ours = type(data).__module__.startswith("torchvision.")
    return known.get(type(data).__name__, "own") if ours else "own"


def _whole(data: Own) -> Own:
    """The dataset that a `Subset` is a part of."""
    while isinstance(data, torch.utils.data.Subset):
        data = data.dataset
    return data


def _labelled(data: Own) -> Labelled:
    """The images of one split, of whichever kind."""
    if isinstance(data, Dataset):
        data = data.train
    if isinstance(data, Images):
        return Labelled(images=data.pixels, labels=data.labels.numpy(), names=data.classes)
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _hugging_face(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        return _arrays(*data)
    parts = data if isinstance(data, tuple | list) else [data]
    if any(isinstance(part, Tensor | np.ndarray) for part in parts):
        raise UserError(f"{counted(len(parts), 'array')}: give a pair (images, labels)")
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise UserError(
            f"a {type(data).__name__} is not taken: give a map-style torch Dataset, a Hugging Face "
            "Dataset, or a pair of arrays (images, labels)"
        )
    return _pairs(data)


def _pairs(data: Own) -> Labelled:
    """A map-style dataset of (image, label)."""
    images, labels = [], []
    for number in range(len(data)):
        with within(f"item {number}"):
            item = _item(data, number)
            images.append(pixels_of(item[0]))
            labels.append(_label(item[1]))
    whole = _whole(data)
    names = getattr(whole, "classes", None)
    if _name(data) == "mnist":
        names = TEN  # torchvision calls them `0 - zero`
    return Labelled(images=images, labels=np.array(labels, dtype=np.int64), names=names)


def _item(data: Own, number: int) -> tuple[Any, Any]:
    """An image and its label, as they come. Raises `UserError` for anything else."""
    try:
        item = data[number]
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"it cannot be read ({reason(error)})") from error
    if isinstance(item, Mapping):
        keys = ", ".join(map(str, item))
        raise UserError(f"it is a {type(item).__name__} of {keys}: give (image, label)")
    if not isinstance(item, tuple | list):
        raise UserError(f"it is a {type(item).__name__}: give (image, label)")
    if len(item) != 2:
        raise UserError(f"it has {counted(len(item), 'part')}: give (image, label)")
    return item[0], item[1]


def _label(label: Any) -> int:
    """A label as a number. Raises `UserError` for what is none."""
    try:
        number = float(label)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not number.is_integer():
        raise UserError(f"its label is {label!r}: it must be a whole number")
    return int(number)


def _arrays(images: Any, labels: Any) -> Labelled:
    """A pair of arrays or tensors."""
    if not all(isinstance(one, Tensor | np.ndarray) for one in (images, labels)):
        raise UserError(
            "a pair must be arrays or tensors: images [N, ...] and labels [N]; "
            "two datasets are `as_dataset(train, test)`"
        )
    with within("the labels"):
        flat = _tensor(labels)
    flat = flat[:, 0] if flat.ndim == 2 and flat.shape[1] == 1 else flat
    if flat.shape != (len(images),) or (len(flat) and not _whole_kind(flat)):
        whole = flat.is_floating_point() and bool((flat == flat.round()).all())
        hint = ": `labels.long()`, or `labels.astype(int)` of an array" if whole else ""
        raise UserError(
            f"{len(images)} images have labels of {flat.dtype} {list(flat.shape)}; give a whole "
            f"number for each{hint}"
        )
    return Labelled(images=_numbered(images), labels=flat.long().numpy())


def _whole_kind(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex())


def _numbered(images: Iterable[Any]) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        images = _tensor(images)
    for number, image in enumerate(images):
        with within(f"image {number}"):
            yield pixels_of(image)


def _hugging_face(data: Own) -> Labelled:
    """A `datasets.Dataset`, by its features."""
    if not hasattr(data, "__len__"):
        raise UserError("a stream cannot be condensed: load the dataset without `streaming`")
    image = _column(data, "Image", "image")
    label = _column(data, "ClassLabel", "label")
    rows = data.with_format(None).select_columns([image, label])
    labels = np.array(rows[label], dtype=np.int64)
    pictures = (row[image] for row in rows)
    return Labelled(
        images=_numbered(pictures), labels=labels, names=list(data.features[label].names)
    )


def _column(data: Own, kind: str, usual: str) -> str:
    """The name of the column of a kind of feature: the only one, or the one that is named so."""
    found = [name for name, one in data.features.items() if type(one).__name__ == kind]
    if usual in found:
        return usual
    if len(found) != 1:
        raise UserError(
            f"it has {len(found)} features of kind {kind} ({', '.join(found) or 'none'}): name the "
            f"one that is meant `{usual}` (`rename_column`)"
        )
    return found[0]
