"""CutMix: part of each image of a batch is replaced by that part of another one.

Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019. Like the operations of DSA it is free of control flow that depends
on a draw, so that a step can be captured as a CUDA graph.
"""

import torch
from torch import Tensor

from condense.data.operations import integers
from condense.randomness import uniforms


def cutmix(
    images: Tensor, probability: float, seed: int, step: int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix a batch with `probability`, each image with another one; all by the same rectangle.

    The rectangle has the proportions of the image. Its area, as a share of the image, is uniform in
    [0, 1) and its centre is uniform over the image; what lies outside is cut off. All draws follow
    from (seed, step).

    Parameters
    ----------
    images: float [N, ch, H, W].
    step: an integer, or an int64 scalar tensor on the same device.

    Returns the mixed images, the index of the other image of each, int64 [N], and the share of each
    image that is still its own, a scalar in [0, 1]. The loss of a mixed batch is that share of the
    loss by the images' own labels, plus the rest of the loss by the labels of the others.

    >>> images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    >>> mixed, others, own = cutmix(images, probability=1.0, seed=0, step=3)
    >>> wanted = own * torch.arange(4.0) + (1 - own) * others
    >>> torch.allclose(mixed.mean(dim=(1, 2, 3)), wanted)
    True
    >>> bool(cutmix(images, probability=0.0, seed=0, step=3)[2] == 1)
    True
    """
    lane = torch.zeros(1, dtype=torch.int64, device=images.device)
    mixes, area, down, right = uniforms(seed, "cutmix", step, lane, 4)[0]

    def covered(size: int, centre: Tensor) -> Tensor:
        """Which of `size` pixels the rectangle covers, bool [size]."""
        half = (size * area.sqrt()).long() // 2
        index = torch.arange(size, device=images.device)
        middle = integers(centre, size)
        return (index >= middle - half) & (index < middle + half)

    rows, columns = covered(images.shape[2], down), covered(images.shape[3], right)
    cut = rows[:, None] & columns & (mixes < probability)
    lanes = torch.arange(len(images), device=images.device)
    others = uniforms(seed, "cutmix others", step, lanes, 1)[:, 0].argsort(stable=True)
    own = 1 - cut.to(images.dtype).mean()
    return torch.where(cut, images[others], images), others, own
