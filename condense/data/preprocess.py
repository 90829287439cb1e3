"""Preprocessing: what happens to pixels before a network sees them.

A transform is fitted once on the real images, saved together with a condensed set, and inverted to
show pictures. There are two: `standard` (`Standardize`, per channel) and `zca` (`Whiten`). Both
turn uint8 pixels into float32 images and back. The images of a condensed set are stored in
transformed form, so the set carries its transform along. `fingerprint` tells whether two transforms
are the same.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from condense.errors import UserError, unknown
from condense.progress import notice

if TYPE_CHECKING:
    from condense.data.images import Dataset

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PUBLISHED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    **dict.fromkeys(
        ("tinyimagenet", "imagenet-1k", "imagenette", "imagewoof", "imagesquawk"), _IMAGENET
    ),
}
"""The means and standard deviations per channel that the literature uses, by dataset name."""

_BLOCK_VALUES = 1 << 22
"""The size of a block in values. Blocks keep the temporary tensors below 100 MB."""
_EPS = 0.1
"""Added to the variances before whitening, as for all published ZCA sets."""
_LARGEST_ZCA = 3 * 64 * 64
"""The most values per image.

The size of the matrix grows with the square of this number, the time to fit it with the cube."""


@dataclass(frozen=True, eq=False)
class Preprocess:
    """A fitted, invertible transform of pixels. Its fields are tensors, all on one device.

    A subclass defines how a block of images in [0, 1] is transformed and restored, and which images
    it accepts.

    >>> preprocess: Preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    >>> preprocess.apply(pixels).flatten()
    tensor([-2.,  2.])
    >>> preprocess.quantise(preprocess.apply(pixels)).flatten()
    tensor([  0, 255], dtype=torch.uint8)
    """

    name: ClassVar[str]
    """The name in `PREPROCESS`."""
    mean: Tensor
    """What is subtracted from images in [0, 1]."""

    def apply(self, pixels: Tensor) -> Tensor:
        """Transform uint8 pixels [N, ch, H, W] into float32 images of the same shape.

        The pixels may be on any device. The result is on the device of this transform. Raises
        `UserError` for pixels of another type or shape.
        """
        if pixels.dtype != torch.uint8:
            raise UserError(
                f"preprocessing takes uint8 pixels, and these are {pixels.dtype}: "
                + _remedy(pixels)
            )
        self._check(pixels)
        images = torch.empty(pixels.shape, dtype=torch.float32, device=self.mean.device)
        for block in _blocks(pixels):
            images[block] = self._forward(pixels[block].to(self.mean.device).float() / 255)
        return images

    def unapply(self, images: Tensor) -> Tensor:
        """The exact inverse of `apply`: transformed float images [N, ch, H, W] to pixels / 255.

        The result is not clamped.
        """
        self._check(images)
        return self._backward(images.to(self.mean.device))

    def invert(self, images: Tensor) -> Tensor:
        """The result of `unapply`, clamped to [0, 1], so that it can be shown."""
        return self.unapply(images).clamp(0, 1)

    def clamp(self, images: Tensor) -> Tensor:
        """Transformed images [N, ch, H, W] with every pixel clamped to what a picture can hold."""
        return self._forward(self.invert(images))

    def quantise(self, images: Tensor) -> Tensor:
        """The nearest uint8 pixels to transformed images: `quantise(apply(pixels))` is `pixels`."""
        return (self.invert(images) * 255).round().to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """The tensors of this transform, for saving; `from_state` restores it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Self:
        """This transform on another device."""
        return type(self)(**{key: value.to(device) for key, value in self.state().items()})

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that cover the name and every bit of the tensors.

        Only equal transforms have equal fingerprints.
        """
        content = hashlib.blake2b(self.name.encode(), digest_size=8)
        for key, value in self.state().items():
            content.update(f"{key}{tuple(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    def _check(self, images: Tensor) -> None:
        raise NotImplementedError

    def _forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _backward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Standardize(Preprocess):
    """Standardisation per channel: `(x - mean) / std`.

    `mean` and `std` are float32 [ch], for x in [0, 1].

    >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> fitted = Standardize.fit(pixels)
    >>> fitted.mean, fitted.std
    (tensor([0.5000]), tensor([0.5000]))
    """

    name: ClassVar[str] = "standard"
    std: Tensor
    """What centred images are divided by."""

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.std.shape != self.mean.shape:
            raise UserError(
                f"`standard` needs a mean and a std per channel, found {tuple(self.mean.shape)} "
                f"and {tuple(self.std.shape)}: save the transform again"
            )

    @classmethod
    def fit(cls, pixels: Tensor) -> Self:
        """Compute mean and standard deviation of every channel of uint8 pixels [N, ch, H, W].

        A deviation below one grey level, as of a constant channel, is set to one grey level.
        """
        _check_fit(pixels, least=1)
        total = torch.zeros(2, pixels.shape[1], dtype=torch.float64)
        # The sums are integers below 2**53, hence exact for any block size.
        for block in _blocks(pixels):
            values = pixels[block].double()
            total += torch.stack(
                [values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))]
            ).cpu()
        mean, square = total / (pixels.numel() // pixels.shape[1])
        std = (square - mean.square()).clamp(min=1).sqrt()
        return cls(mean=(mean / 255).float(), std=(std / 255).float())

    def clamp(self, images: Tensor) -> Tensor:
        """The images clamped to what 0 and 1 become; what lies between keeps its bits."""
        low, high = (self._forward(images.new_full((len(self.mean), 1, 1), end)) for end in (0, 1))
        return images.clamp(low, high)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit a standardisation of "
                f"{len(self.mean)} channels: give [N, ch, H, W] with the channels it was fitted on"
            )

    def _forward(self, images: Tensor) -> Tensor:
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def _backward(self, images: Tensor) -> Tensor:
        return images * self.std[:, None, None] + self.mean[:, None, None]


@dataclass(frozen=True, eq=False)
class Whiten(Preprocess):
    """ZCA whitening of flattened images: `(x - mean) @ matrix`.

    With the covariance `U S U^T` of the images, `matrix` is `U (S + 0.1)^-1/2 U^T`. It is
    symmetric, float32 [D, D] with D = ch * H * W; `mean` is float32 [ch, H, W]. For colour images
    of 32 px the matrix takes 38 MB. Only fitting needs kornia; a saved transform is applied by a
    matrix product.

    >>> pixels = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
    >>> whiten = Whiten.fit(pixels)
    >>> whiten.matrix.shape
    torch.Size([16, 16])
    >>> torch.equal(whiten.quantise(whiten.apply(pixels)), pixels)
    True
    """

    name: ClassVar[str] = "zca"
    matrix: Tensor
    """What centred and flattened images are multiplied by."""

    def __post_init__(self) -> None:
        if self.mean.ndim != 3 or self.matrix.shape != (self.mean.numel(), self.mean.numel()):
            raise UserError(
                "`zca` needs a mean [ch, H, W] and a square matrix of its size, found "
                f"{tuple(self.mean.shape)} and {tuple(self.matrix.shape)}: save the transform again"
            )

    @classmethod
    def fit(cls, pixels: Tensor) -> Self:
        """Fit to uint8 pixels [N, ch, H, W], N >= 2, scaled to [0, 1].

        This takes 15 s and 3 GB of memory for the training images of CIFAR-10. Raises `UserError`
        for images of more than 3 x 64 x 64 values.
        """
        _check_fit(pixels, least=2)
        if pixels[0].numel() > _LARGEST_ZCA:
            raise UserError(
                f"zca on images of {pixels[0].numel()} values would need a matrix of that size "
                "squared: use `standard`, "
                f"or a resolution of at most {_LARGEST_ZCA} values an image"
            )
        from kornia.enhance import ZCAWhitening

        zca = ZCAWhitening(eps=_EPS).fit(pixels.float() / 255)
        mean, matrix = zca.mean_vector, zca.transform_matrix
        return cls(mean=mean.reshape(pixels.shape[1:]), matrix=(matrix + matrix.T) / 2)

    @cached_property
    def _inverse(self) -> Tensor:
        # The eigenvalues of `matrix` lie between 1 / sqrt(largest variance + 0.1) and
        # 1 / sqrt(0.1), which is a factor of 24 on CIFAR-10. Inverting it takes half a second and
        # loses no accuracy, while storing the inverse would double the file.
        return torch.linalg.inv(self.matrix)

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != self.mean.shape:
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit a ZCA of "
                f"{tuple(self.mean.shape)}: give [N, ch, H, W] with the shape it was fitted on"
            )

    def _forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean).flatten(1) @ self.matrix).view(images.shape)

    def _backward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self._inverse).view(images.shape) + self.mean


PREPROCESS: dict[str, type[Standardize] | type[Whiten]] = {
    kind.name: kind for kind in (Standardize, Whiten)
}
"""Every transform, by name."""


_FITTED: "WeakKeyDictionary[Dataset, dict[str, Preprocess]]" = WeakKeyDictionary()
"""The fitted transforms of each dataset, by name.

Whitening takes most of a minute to fit, and a study makes many sets from one dataset."""


def make_preprocess(name: str, dataset: "Dataset") -> Preprocess:
    """The transform called `name` for `dataset`.

    It uses the published constants if there are any; otherwise it is fitted on the training images.
    Raises `UserError` for an unknown name.

    >>> from condense import load_dataset
    >>> digits = load_dataset("digits")
    >>> images = make_preprocess("standard", digits).apply(digits.train.pixels)
    >>> abs(images.mean().item()) < 1e-5, abs(images.std().item() - 1) < 1e-4
    (True, True)
    """
    if name == "standard" and dataset.name in PUBLISHED:
        mean, std = PUBLISHED[dataset.name]
        return Standardize(mean=torch.tensor(mean), std=torch.tensor(std))
    fitted = _FITTED.setdefault(dataset, {})
    if name not in fitted:
        with notice(f"fitting `{name}` to {len(dataset.train):,} images"):
            fitted[name] = _kind(name).fit(dataset.train.pixels)
    return fitted[name]


def from_state(name: str, state: Mapping[str, Tensor]) -> Preprocess:
    """Restore the transform called `name` from its `state()`.

    Raises `UserError` if the tensors are not those of such a transform.

    >>> state = {"mean": torch.tensor([0.5]), "std": torch.tensor([0.25])}
    >>> from_state("standard", state).name
    'standard'
    """
    kind = _kind(name)
    wanted = {field.name for field in fields(kind)}
    if state.keys() != wanted:
        raise UserError(
            f"preprocessing `{name}` consists of {sorted(wanted)}, found {sorted(state)}: "
            "the file is damaged"
        )
    return kind(**state)


def _kind(name: str) -> type[Standardize] | type[Whiten]:
    if name not in PREPROCESS:
        raise unknown("preprocessing", name, PREPROCESS)
    return PREPROCESS[name]


def _remedy(values: Tensor) -> str:
    """How pixels are made of values that are no uint8."""
    low, high = (float(end) for end in values.aminmax()) if values.numel() else (0, 0)
    if low >= 0 and high <= 1 and values.is_floating_point():
        return "convert them with `(255 * images).round().to(torch.uint8)`"
    if low >= 0 and high <= 255:
        return "convert them with `.to(torch.uint8)`"
    return "give the images as 0..255, before they are normalised"


def _check_fit(pixels: Tensor, least: int) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) < least:
        raise UserError(
            f"preprocessing is fitted on uint8 [N, ch, H, W] with N >= {least}, "
            f"and not on {pixels.dtype} {tuple(pixels.shape)}: give it the training images"
        )


def _blocks(pixels: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // max(1, pixels[:1].numel()))
    return (slice(start, start + size) for start in range(0, len(pixels), size))
