"""Multi-formation: a stored image is a mosaic of smaller ones, which are enlarged before use.

Neighbouring pixels of an image differ little, so that more images at a lower resolution make better
use of the same storage (Kim et al., "Dataset Condensation via Efficient Synthetic-Data
Parameterization" (IDC), ICML 2022, section 4.1). In formation f, N stored images give N * f * f
images to match and to train on. Those of one mosaic follow each other, row by row.
"""

from torch import Tensor
from torch.nn import functional

from condense.errors import UserError


def decode(images: Tensor, formation: int) -> Tensor:
    """The parts of each mosaic in `images` [N, ch, H, W], enlarged: [N * f * f, ch, H, W].

    They are enlarged bilinearly; the operation is differentiable.

    >>> import torch
    >>> decode(torch.rand(3, 1, 8, 8), formation=2).shape
    torch.Size([12, 1, 8, 8])
    """
    if formation == 1:
        return images
    size = images.shape[2:]
    # [N, ch, f, H / f, f, W / f]
    cells = images.unflatten(3, (formation, -1)).unflatten(2, (formation, -1))
    parts = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return functional.interpolate(parts, size=tuple(size), mode="bilinear", align_corners=False)


def encode(images: Tensor, formation: int) -> Tensor:
    """Mosaics [N, ch, H, W] of `images` [N * f * f, ch, H, W], each reduced by averaging.

    Raises `UserError` if the images do not divide into f x f parts.

    >>> import torch
    >>> encode(torch.rand(12, 1, 8, 8), formation=2).shape
    torch.Size([3, 1, 8, 8])
    """
    if formation == 1:
        return images
    check(formation, images.shape[2], images.shape[3])
    # [N, f, f, ch, H / f, W / f]
    parts = functional.avg_pool2d(images, formation).unflatten(0, (-1, formation, formation))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def check(formation: int, height: int, width: int) -> None:
    """Raise `UserError` unless images of that size divide into `formation` x `formation` parts.

    >>> check(3, 32, 32)
    Traceback (most recent call last):
    condense.errors.UserError: `formation` is 3: images of 32 x 32 px do not divide into ...
    """
    if formation < 1 or height % formation or width % formation:
        raise UserError(
            f"`formation` is {formation}: "
            f"images of {height} x {width} px do not divide into so many a side"
        )
