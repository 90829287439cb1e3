"""A condensed set and its file: images, labels, class names, preprocessing and provenance.

All of it is stored in one safetensors file, but for a large transform in a folder of sets, which is
kept once beside them (`condense.sets.transforms`). Images are stored as they are (`float32`,
`float16`), or with 8 bits a value (`uint8`): as pixels, to which the set's preprocessing is applied
again when the file is read, or as 256 steps of each channel's own range, whichever loses less.
Equal sets give equal bytes, so that a resumed run can be compared with an uninterrupted one. A
flipped bit is detected.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from condense.data.preprocess import Preprocess, from_state
from condense.errors import UserError, unknown
from condense.files import digest, load_tensors, on_host, save_tensors
from condense.reading import usable_path
from condense.sets import published, transforms
from condense.sets.mosaics import check, decode
from condense.settings import read_value

FORMAT = 4  # of the file; raise it when an older version would misread a newer file
FILE_NAME = "set.safetensors"  # inside a run folder
STORAGES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


@dataclass(frozen=True, eq=False)
class CondensedSet:
    """N synthetic or selected images that stand for a dataset, in the memory of the host.

    Raises `UserError` if its parts do not fit together: shapes, label range, non-finite values.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> preprocess = make_preprocess("standard", load_dataset("digits"))
    >>> images, labels = torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    >>> condensed = CondensedSet(images, labels, ("zero", "one"), preprocess, {"seed": 0})
    >>> len(condensed), condensed.shape, condensed.ipc
    (4, (1, 8, 8), 2)
    >>> file = condensed.save("small.safetensors")
    >>> CondensedSet.load(file).fingerprint == condensed.fingerprint
    True
    >>> len(condensed.merge(condensed))
    8
    """

    images: Tensor
    """float32 [N, ch, H, W], preprocessed; mosaics where `formation` is above 1."""
    labels: Tensor
    """Hard labels, int64 [N] in 0..C-1, or soft labels, float32 [N, C].

    Soft labels are learned targets, not necessarily probabilities."""
    classes: tuple[str, ...]
    """The names of the C classes. A set may have images of only some of them."""
    preprocess: Preprocess
    """The transform that turned uint8 pixels into `images`.

    A network that was trained on the set must be tested under the same transform."""
    provenance: dict[str, Any]
    """How the set was made, in plain JSON: versions, seed, recipe, dataset, device, steps.

    It contains no times, because it is stored in the file, and equal runs must give equal files."""
    formation: int = 1
    """The f of f x f smaller images that make up each stored image.

    `decoded` enlarges them to what a network is trained on."""

    def __post_init__(self) -> None:
        images, labels = (on_host(name, getattr(self, name)) for name in ("images", "labels"))
        _check(images, labels, len(self.classes))
        check(self.formation, *images.shape[2:])
        try:
            # The same form as after reading it from a file.
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"`provenance` of a condensed set must be plain JSON: {error}"
            ) from None
        preprocess = self.preprocess
        if preprocess.mean.device != images.device:
            preprocess = preprocess.to(images.device)
        for field, value in (
            ("images", images),
            ("labels", labels),
            ("classes", tuple(self.classes)),
            ("preprocess", preprocess),
            ("provenance", provenance),
        ):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        kind = "mosaics" if self.formation > 1 else "images"
        soft = ", soft labels" if self.soft else ""
        return f"CondensedSet: {len(self)} {kind}, {self.shape}, {len(self.classes)} classes{soft}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def soft(self) -> bool:
        """Whether the labels are soft."""
        return self.labels.ndim == 2

    def class_of(self) -> Tensor:
        """The class of each image, int64 [N]: its hard label, or the largest of a soft one."""
        return self.labels.argmax(dim=1) if self.soft else self.labels

    def counts(self) -> Tensor:
        """The number of images of each class, int64 [C]."""
        return torch.bincount(self.class_of(), minlength=len(self.classes))

    @property
    def ipc(self) -> int:
        """Images per class: the number in the largest class."""
        return int(self.counts().max())

    def per_class(self, c: int) -> Tensor:
        """The images of class `c`, float32 [I, ch, H, W], in the set's order."""
        return self.images[self.class_of() == c]

    def pixels(self) -> Tensor:
        """The images as uint8 pixels [N, ch, H, W], to look at or for other tools.

        The preprocessing is inverted; the values are clipped and rounded.
        """
        return self.preprocess.quantise(self.images)

    def decoded(self) -> Self:
        """The set to train on: each mosaic is replaced by the images it contains.

        Every one of them has the label of the mosaic. A set without mosaics is returned as it is.
        """
        if self.formation == 1:
            return self
        labels = self.labels.repeat_interleave(self.formation**2, dim=0)
        return replace(self, images=decode(self.images, self.formation), labels=labels, formation=1)

    def as_dataset(self) -> TensorDataset:
        """The decoded set as a torch `Dataset` of (image, label) pairs."""
        decoded = self.decoded()
        return TensorDataset(decoded.images, decoded.labels)

    def nbytes(self, storage: str = "float32") -> int:
        """The size of images and labels in bytes, stored as `float32`, `float16` or `uint8`.

        The preprocessing is not counted, since sets share it.
        """
        return self.images.numel() * _dtype(storage).itemsize + self.labels.nbytes

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the content.

        They cover images, labels, classes, preprocessing and formation, but not the provenance.
        """
        formation = [self.formation] if self.formation > 1 else []
        text = json.dumps([self.classes, self.preprocess.fingerprint, *formation])
        return digest({"images": self.images, "labels": self.labels}, text)[:16]

    def merge(self, other: Self) -> Self:
        """The images of both sets, those of this one first.

        If one set has soft labels, the hard labels of the other become one-hot. Raises `UserError`
        unless both have the same classes, image shape, preprocessing and formation.
        """
        for what, mine, theirs in (
            ("classes", ", ".join(self.classes), ", ".join(other.classes)),
            ("image shapes", self.shape, other.shape),
            ("preprocessing", _describe(self.preprocess), _describe(other.preprocess)),
            ("formations", self.formation, other.formation),
        ):
            if mine != theirs:
                raise UserError(f"cannot merge sets of different {what}: {mine} and {theirs}")
        parts = [
            part for one in (self, other) for part in one.provenance.get("merged", [one.provenance])
        ]
        soft = self.soft or other.soft
        return type(self)(
            images=torch.cat([self.images, other.images]),
            labels=torch.cat([one._soft_labels() if soft else one.labels for one in (self, other)]),
            classes=self.classes,
            preprocess=self.preprocess,
            provenance={"merged": parts},
            formation=self.formation,
        )

    def _soft_labels(self) -> Tensor:
        return self.labels if self.soft else F.one_hot(self.labels, len(self.classes)).float()

    def save(self, path: str | Path, storage: str = "float32", *, alone: bool = True) -> Path:
        """Write the set to `path` atomically; returns the file.

        `path` is a .safetensors file, or a folder, in which `set.safetensors` is written. `storage`
        `float32` keeps every bit. `float16` halves the size of the images. `uint8` quarters it:
        real images keep every pixel, and the values of others move by at most 1/510 of the range of
        their channel. Unless `alone`, a large transform is kept in a file of its own, which all
        sets of the folder share; these files must stay together.

        Raises `UserError` for an unknown storage, and for images that are too large for `float16`.
        """
        dtype = _dtype(storage)
        ranged = storage == "uint8" and _Ranges.lose_less(self)
        if ranged:
            ranges = _Ranges.of(self.images)
            images, state = ranges.stored(self.images), ranges.state()
        else:
            images, state = self.pixels() if storage == "uint8" else self.images.to(dtype), {}
        if storage == "float16" and not images.isfinite().all():
            raise UserError(
                "images are too large for float16 (above 65504): save with storage float32"
            )
        file, apart = _file(Path(path)), not alone and transforms.is_large(self.preprocess)
        if apart:
            transforms.keep(self.preprocess, file.parent)
        else:
            own = self.preprocess.state()
            state |= {f"preprocess.{name}": value for name, value in own.items()}
        header = {
            # The oldest format that holds it, so that older versions read what they can.
            "format": 4 if apart else 3 if ranged else 2 if self.formation > 1 else 1,
            "classes": self.classes,
            "preprocess": self.preprocess.name,
            "provenance": self.provenance,
            "storage": storage,
            **({"formation": self.formation} if self.formation > 1 else {}),
            **({"transform": self.preprocess.fingerprint} if apart else {}),
        }
        save_tensors(file, {"images": images, "labels": self.labels, **state}, header)
        return file

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a set from its file, from its run folder, or by the name of a published set.

        Raises `UserError` if it is missing or damaged, or was written by another program.
        """
        if not isinstance(path, str | Path):
            raise UserError(
                f"a {type(path).__name__} is no condensed set: give one, or its file or run folder"
            )
        path = published.file(str(path)) if published.is_name(path) else usable_path(path)
        file = _file(path)
        if path.is_file() and path != file:
            raise UserError(f"{path} is not a .safetensors file: import it first")
        if not file.exists():
            raise UserError(f"no condensed set at {file}: {_what_is(path)}")
        tensors, header = load_tensors(file)
        if header.get("format") not in range(1, FORMAT + 1):
            version = header.get("format", "none")
            raise UserError(
                f"{file} has set format {version}, this version reads up to {FORMAT}: use the "
                "version that wrote it"
            )
        try:
            images, labels = tensors.pop("images"), tensors.pop("labels")
            ranges = _Ranges.taken_from(tensors)
            state = {name.removeprefix("preprocess."): value for name, value in tensors.items()}
            name = read_value(str, header["preprocess"], "preprocess")
            preprocess = (
                transforms.find(file.parent, name, header["transform"])
                if "transform" in header
                else from_state(name, state)
            )
            if ranges:
                images = ranges.restored(images)
            elif header["storage"] == "uint8":
                images = preprocess.apply(images)
            else:
                images = images.float()
            classes = read_value(tuple[str, ...], header["classes"], "classes")
            provenance = read_value(dict[str, Any], header["provenance"], "provenance")
            formation = read_value(int, header.get("formation", 1), "formation")
            return cls(images, labels, classes, preprocess, provenance, formation=formation)
        except KeyError as error:
            raise UserError(f"{file} lacks {error}: it is not a condensed set") from None
        except UserError as error:
            raise UserError(f"{file}: {error}") from None


@dataclass(frozen=True)
class _Ranges:
    """256 even steps from the smallest to the largest value of each channel."""

    low: Tensor
    """float32 [ch]."""
    high: Tensor
    """float32 [ch]."""

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """The ranges of images [N, ch, H, W]."""
        low, high = torch.aminmax(images.transpose(0, 1).flatten(1), dim=1)
        return cls(low, high)

    @classmethod
    def taken_from(cls, tensors: dict[str, Tensor]) -> Self | None:
        """Those among the tensors of a file, which they are removed from, if there are any."""
        if "range.low" not in tensors:
            return None
        return cls(tensors.pop("range.low"), tensors.pop("range.high"))

    @classmethod
    def lose_less(cls, condensed: CondensedSet) -> bool:
        """Whether they are closer to the images of a set than the nearest pixels are."""
        images, ranges = condensed.images, cls.of(condensed.images)
        stored = ranges.restored(ranges.stored(images))
        pixels = condensed.preprocess.apply(condensed.pixels())
        return bool((stored - images).abs().amax() < (pixels - images).abs().amax())

    def stored(self, images: Tensor) -> Tensor:
        """The number of the nearest step of each value, uint8."""
        low, width = self._as_images()
        return ((images - low) * (255 / width.where(width > 0, 1))).round().to(torch.uint8)

    def restored(self, steps: Tensor) -> Tensor:
        """The values at these steps, float32. Raises `UserError` for steps that are no uint8."""
        if steps.dtype != torch.uint8 or not self.low.shape == self.high.shape == steps.shape[1:2]:
            raise UserError(
                f"images stored by ranges must be uint8 [N, ch, H, W] with a range for each "
                f"channel, not {_type_of(steps)} with {_type_of(self.low)}"
            )
        low, width = self._as_images()
        return (low + width * (steps / 255)).float()

    def state(self) -> dict[str, Tensor]:
        """The tensors that a file keeps."""
        return {"range.low": self.low, "range.high": self.high}

    def _as_images(self) -> tuple[Tensor, Tensor]:
        """Where the ranges begin, and their widths, float64 [ch, 1, 1]: the ends are then exact."""
        low, high = (end.double()[:, None, None] for end in (self.low, self.high))
        return low, high - low


def _check(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise `UserError` unless images and labels are as `CondensedSet` describes them."""
    if images.ndim != 4 or images.dtype != torch.float32 or images.numel() == 0:
        raise UserError(
            f"`images` of a condensed set must be float32 [N, ch, H, W], not {_type_of(images)}"
        )
    hard = labels.dtype == torch.int64 and labels.shape == (len(images),)
    soft = labels.dtype == torch.float32 and labels.shape == (len(images), num_classes)
    if not (hard or soft):
        wanted = f"int64 [{len(images)}] or float32 [{len(images)}, {num_classes}]"
        raise UserError(f"`labels` of a condensed set must be {wanted}, not {_type_of(labels)}")
    if hard and not ((labels >= 0) & (labels < num_classes)).all():
        raise UserError(
            f"`labels` run from {int(labels.min())} to {int(labels.max())}, but there are "
            f"{num_classes} classes"
        )
    for name, values in (("images", images), ("labels", labels)):
        if not values.isfinite().all():
            raise UserError(f"`{name}` of a condensed set hold values that are not finite")


def _type_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _describe(preprocess: Preprocess) -> str:
    return f"{preprocess.name} ({preprocess.fingerprint})"


def _dtype(storage: str) -> torch.dtype:
    if storage not in STORAGES:
        raise unknown("storage", storage, STORAGES)
    return STORAGES[storage]


def _what_is(path: Path) -> str:
    """What a path without a set is instead, and what to do about it."""
    if (path / "run.json").exists():
        return f"the run has not ended, go on with `condensekit condense --resume {path}`"
    return "the folder holds no run" if path.is_dir() else "check the path"


def _file(path: Path) -> Path:
    """The file that `path` refers to: itself, or the set in the run folder it names."""
    return path if path.suffix == ".safetensors" and not path.is_dir() else path / FILE_NAME
