"""Multi-formation: a stored image is a mosaic of smaller ones, each of which is enlarged to full size before use.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022, section 4.1: more
images for the same storage, since neighbouring pixels tell little apart. In formation f, N stored images are N * f * f
images to match and to train on; those of one image follow each other, row by row of the mosaic.
"""

from torch import Tensor
from torch.nn import functional

from condense.errors import UserError


def decode(images: Tensor, formation: int) -> Tensor:
    """The parts of each mosaic of `images` [N, ch, H, W], enlarged bilinearly: [N * f * f, ch, H, W]. Differentiable."""
    if formation == 1:
        return images
    size = images.shape[2:]
    cells = images.unflatten(3, (formation, -1)).unflatten(
        2, (formation, -1)
    )  # [N, ch, f, H / f, f, W / f]
    parts = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return functional.interpolate(parts, size=tuple(size), mode="bilinear", align_corners=False)


def encode(images: Tensor, formation: int) -> Tensor:
    """Mosaics of `images` [N * f * f, ch, H, W], each reduced by averaging f x f pixels: [N, ch, H, W]."""
    if formation == 1:
        return images
    check(formation, images.shape[2], images.shape[3])
    parts = functional.avg_pool2d(images, formation).unflatten(
        0, (-1, formation, formation)
    )  # [N, f, f, ch, H / f, W / f]
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def check(formation: int, height: int, width: int) -> None:
    """Raise `UserError` unless images of that size divide into `formation` x `formation` parts."""
    if formation < 1 or height % formation or width % formation:
        raise UserError(
            f"`formation` is {formation}: images of {height} x {width} px do not divide into so many a side"
        )
