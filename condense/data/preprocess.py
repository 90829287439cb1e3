"""What happens to pixels before a network sees them: fitted once on real images, saved with the set, inverted for pictures.

Two transforms, by name: `standard` (`Standardize`: per channel) and `zca` (`Whiten`). Both take uint8 pixels to
float32 images and back. A condensed set lives in its transform's space, so it carries the transform with it;
`fingerprint` says whether two are the same.
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
"""Mean and standard deviation per channel that the literature uses, by dataset name."""

_BLOCK_VALUES = 1 << 22
"""Pixels are transformed in blocks of about this many values, so that temporaries stay below 100 MB."""
_EPS = 0.1
"""Added to the variances before whitening, as in all published ZCA sets."""
_LARGEST_ZCA = 3 * 64 * 64
"""Values per image: the matrix grows with the square of this, the time to fit it with the cube."""


@dataclass(frozen=True, eq=False)
class Preprocess:
    """A fitted, invertible transform of pixels. Its fields are its tensors, all on one device.

    A subclass says how one block of images in [0, 1] is transformed and restored, and which images it accepts.
    """

    name: ClassVar[str]
    mean: Tensor

    def apply(self, pixels: Tensor) -> Tensor:
        """Transform uint8 [N, ch, H, W], on any device, into float32 [N, ch, H, W] on the device of this transform."""
        if pixels.dtype != torch.uint8:
            raise UserError(
                f"preprocessing takes uint8 pixels, and these are {pixels.dtype}: give the images as 0..255"
            )
        self._check(pixels)
        images = torch.empty(pixels.shape, dtype=torch.float32, device=self.mean.device)
        for block in _blocks(pixels):
            images[block] = self._forward(pixels[block].to(self.mean.device).float() / 255)
        return images

    def unapply(self, images: Tensor) -> Tensor:
        """The exact inverse of `apply`: float [N, ch, H, W] in transformed space to pixels / 255, not clamped."""
        self._check(images)
        return self._backward(images.to(self.mean.device))

    def invert(self, images: Tensor) -> Tensor:
        """`unapply`, clamped into [0, 1]: what can be looked at."""
        return self.unapply(images).clamp(0, 1)

    def quantise(self, images: Tensor) -> Tensor:
        """The nearest uint8 pixels to transformed images; `quantise(apply(pixels))` is `pixels`."""
        return (self.invert(images) * 255).round().to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """The tensors of this transform, for saving; `from_state` is the way back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Self:
        """This transform on another device."""
        return type(self)(**{key: value.to(device) for key, value in self.state().items()})

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the name and every bit of the tensors: equal for equal transforms only."""
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
    """`(x - mean) / std` per channel; mean and std are float32 [ch], in units of x in [0, 1]."""

    name: ClassVar[str] = "standard"
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.std.shape != self.mean.shape:
            raise UserError(
                f"`standard` needs a mean and a std per channel, found {tuple(self.mean.shape)} and {tuple(self.std.shape)}: "
                "save the transform again"
            )

    @classmethod
    def fit(cls, pixels: Tensor) -> Self:
        """Mean and standard deviation of every channel of uint8 [N, ch, H, W].

        A deviation below one grey level (a channel that is constant) becomes one grey level.
        """
        _check_fit(pixels, least=1)
        total = torch.zeros(2, pixels.shape[1], dtype=torch.float64)
        for block in _blocks(pixels):  # sums of integers below 2**53: exact, whatever the block
            values = pixels[block].double()
            total += torch.stack(
                [values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))]
            ).cpu()
        mean, square = total / (pixels.numel() // pixels.shape[1])
        std = (square - mean.square()).clamp(min=1).sqrt()
        return cls(mean=(mean / 255).float(), std=(std / 255).float())

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit a standardisation of {len(self.mean)} channels: "
                "give [N, ch, H, W] with the channels it was fitted on"
            )

    def _forward(self, images: Tensor) -> Tensor:
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def _backward(self, images: Tensor) -> Tensor:
        return images * self.std[:, None, None] + self.mean[:, None, None]


@dataclass(frozen=True, eq=False)
class Whiten(Preprocess):
    """ZCA: `(x - mean) @ matrix` on flattened images, `matrix = U (S + 0.1)^-1/2 U^T` of the covariance `U S U^T`.

    mean is float32 [ch, H, W], matrix is float32 [D, D] with D = ch * H * W and symmetric. For 32 px colour images
    it is 38 MB. Only fitting needs kornia; what is saved is applied by a matrix product.
    """

    name: ClassVar[str] = "zca"
    matrix: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 3 or self.matrix.shape != (self.mean.numel(), self.mean.numel()):
            raise UserError(
                f"`zca` needs a mean [ch, H, W] and a square matrix of its size, found {tuple(self.mean.shape)} and "
                f"{tuple(self.matrix.shape)}: save the transform again"
            )

    @classmethod
    def fit(cls, pixels: Tensor) -> Self:
        """Fit to uint8 [N, ch, H, W], N >= 2, scaled to [0, 1]. Takes 15 s and 3 GB for the images of CIFAR-10."""
        _check_fit(pixels, least=2)
        if pixels[0].numel() > _LARGEST_ZCA:
            raise UserError(
                f"zca on images of {pixels[0].numel()} values would need a matrix of that size squared: "
                f"use `standard`, or a resolution of at most {_LARGEST_ZCA} values an image"
            )
        from kornia.enhance import ZCAWhitening

        zca = ZCAWhitening(eps=_EPS).fit(pixels.float() / 255)
        mean, matrix = zca.mean_vector, zca.transform_matrix
        return cls(mean=mean.reshape(pixels.shape[1:]), matrix=(matrix + matrix.T) / 2)

    @cached_property
    def _inverse(self) -> Tensor:
        # The eigenvalues of `matrix` lie between 1 / sqrt(largest variance + 0.1) and 1 / sqrt(0.1): 24-fold on
        # CIFAR-10. Inverting it costs half a second and no accuracy, storing the inverse would double the file.
        return torch.linalg.inv(self.matrix)

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != self.mean.shape:
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit a ZCA of {tuple(self.mean.shape)}: "
                "give [N, ch, H, W] with the shape it was fitted on"
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
"""Transforms by dataset and name: whitening takes most of a minute to fit, and a study makes many sets of one dataset."""


def make_preprocess(name: str, dataset: "Dataset") -> Preprocess:
    """The transform called `name` for `dataset`: published constants where there are any, else fitted on its training images."""
    if name == "standard" and dataset.name in PUBLISHED:
        mean, std = PUBLISHED[dataset.name]
        return Standardize(mean=torch.tensor(mean), std=torch.tensor(std))
    fitted = _FITTED.setdefault(dataset, {})
    if name not in fitted:
        fitted[name] = _kind(name).fit(dataset.train.pixels)
    return fitted[name]


def from_state(name: str, state: Mapping[str, Tensor]) -> Preprocess:
    """The transform whose `name` and `state()` these are."""
    kind = _kind(name)
    wanted = {field.name for field in fields(kind)}
    if state.keys() != wanted:
        raise UserError(
            f"preprocessing `{name}` consists of {sorted(wanted)}, found {sorted(state)}: the file is damaged"
        )
    return kind(**state)


def _kind(name: str) -> type[Standardize] | type[Whiten]:
    if name not in PREPROCESS:
        raise unknown("preprocessing", name, PREPROCESS)
    return PREPROCESS[name]


def _check_fit(pixels: Tensor, least: int) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) < least:
        raise UserError(
            f"preprocessing is fitted on uint8 [N, ch, H, W] with N >= {least}, "
            f"and not on {pixels.dtype} {tuple(pixels.shape)}: give it the training images"
        )


def _blocks(pixels: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // max(1, pixels[:1].numel()))
    return (slice(start, start + size) for start in range(0, len(pixels), size))
