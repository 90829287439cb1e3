"""The operations of DSA on batches of images.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021. Every
operation leaves the images that are not chosen unchanged bit for bit, without a loop over images,
without waiting for the device and without a shape that depends on a draw.

Shapes: N images, ch channels of H x W pixels; `u` [N, 3] holds each image's uniform numbers in
[0, 1).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CROP_RATIO = 0.125
_CUTOUT_RATIO = 0.5
_SCALE_RATIO = 1.2
_ROTATE_DEGREES = 15.0


def integers(u: Tensor, count: int | Tensor) -> Tensor:
    """Uniform integers in 0..count-1, made from uniform numbers in [0, 1).

    >>> integers(torch.tensor([0.0, 0.5, 0.99]), 4)
    tensor([0, 2, 3])
    """
    # The product can round up to `count`.
    return (u * count).long().clamp(max=count - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value per image, as [N, 1, 1, 1] in the type of the images."""
    return values.to(images.dtype)[:, None, None, None]


def _color(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, in this order, each by its own uniform number."""
    # The steps are x + b, then (x - m) s + m, then (x - M) c + M, where m is the mean over the
    # channels and M the mean over the whole image. A step does not change the mean that it uses,
    # so the three are one affine map: c s x + c (1 - s) m + (1 - c) M + b.
    brightness = _per_image(torch.where(chosen, u[:, 0] - 0.5, 0.0), images)
    saturation = _per_image(torch.where(chosen, u[:, 1] * 2, 1.0), images)
    contrast = _per_image(torch.where(chosen, u[:, 2] + 0.5, 1.0), images)
    grey = images.mean(dim=1, keepdim=True)
    offset = (1 - contrast) * grey.mean(dim=(2, 3), keepdim=True) + brightness
    return contrast * saturation * images + (contrast * (1 - saturation) * grey + offset)


def _crop(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the size in each direction; fill with zeros."""
    height, width = images.shape[2:]

    def source(size: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """The source index of each of `size` pixels, int64 [N, size], and whether it is inside."""
        most = int(size * _CROP_RATIO + 0.5)
        shift = torch.where(chosen, integers(u, 2 * most + 1) - most, 0)
        index = torch.arange(size, device=u.device) + shift[:, None]
        return index.clamp(0, size - 1), (index >= 0) & (index < size)

    rows, rows_inside = source(height, u[:, 0])
    columns, columns_inside = source(width, u[:, 1])
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    moved = (
        images.flatten(2)
        .gather(2, index[:, None, :].expand(-1, images.shape[1], -1))
        .view(images.shape)
    )
    return moved * (rows_inside[:, None, :, None] & columns_inside[:, None, None, :])


def _cutout(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Fill a rectangle of half the height and half the width with zeros.

    Its centre is uniform over the image, so that part of it may lie outside.
    """

    def covered(size: int, u: Tensor) -> Tensor:
        """Which of `size` pixels the rectangle covers, bool [N, size]."""
        length = int(size * _CUTOUT_RATIO + 0.5)
        # A rectangle of even length is centred between two pixels. There are size + 1 such places,
        # and they are symmetric about the middle of the image.
        first = integers(u, size + (1 - length % 2)) - length // 2
        index = torch.arange(size, device=u.device)
        return (index >= first[:, None]) & (index < first[:, None] + length)

    rows, columns = covered(images.shape[2], u[:, 0]), covered(images.shape[3], u[:, 1])
    hole = rows[:, None, :, None] & columns[:, None, None, :] & chosen[:, None, None, None]
    return images * ~hole


def _flip(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Mirror the image from left to right with probability one half."""
    return torch.where((chosen & (u[:, 0] < 0.5))[:, None, None, None], images.flip(3), images)


def _scale(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Zoom each axis in or out by its own factor, uniform in [1 / 1.2, 1.2]."""
    factor = 1 / _SCALE_RATIO + u * (_SCALE_RATIO - 1 / _SCALE_RATIO)
    x, y, zero = factor[:, 0], factor[:, 1], torch.zeros_like(u[:, 0])
    return _warp(images, chosen, torch.stack([x, zero], dim=1), torch.stack([zero, y], dim=1))


def _rotate(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Rotate about the centre by an angle that is uniform in [-15, 15] degrees."""
    angle = (u[:, 0] * 2 - 1) * math.radians(_ROTATE_DEGREES)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, chosen, torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1))


def _warp(images: Tensor, chosen: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Take the pixel at (x, y) from `x * along_x + y * along_y`; coordinates run over [-1, 1].

    `along_x` and `along_y` are [N, 2]. Sampling is bilinear, with zeros outside of the image. The
    result is that of `affine_grid` and `grid_sample` with align_corners=False, but computing the
    grid takes a third of the time.
    """

    def centres(size: int) -> Tensor:
        return (torch.arange(size, device=images.device, dtype=images.dtype) * 2 + 1) / size - 1

    along_x = along_x.to(images.dtype)[:, None, None]
    along_y = along_y.to(images.dtype)[:, None, None]
    grid = (
        along_x * centres(images.shape[3])[:, None]
        + along_y * centres(images.shape[2])[:, None, None]
    )
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.where(chosen[:, None, None, None], warped, images)


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
OPERATIONS: dict[str, Operation] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
"""The operations of DSA, by name.

Each maps (images [N, ch, H, W], chosen bool [N], u [N, 3]) to images, and leaves the images that
are not chosen unchanged."""
