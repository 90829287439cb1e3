"""Distances between the real and the synthetic embeddings of a class.

They are the last term of DataDAM and the only one of DM. With e the embeddings and s^2 the mean
squared distance between two real images of the class:

    mean   || mean_real e - mean_syn e ||^2
           the linear kernel (Zhao and Bilen, DM, WACV 2023)
    rbf    s^2 / 2 * MMD^2 with k(x, y) = exp(-|| x - y ||^2 / s^2)
           all moments (Zhang et al., M3D, AAAI 2024)
    cf     s * mean over frequencies t of | f_real(t) - f_syn(t) | / sqrt(2)
           the characteristic functions f(t) = mean exp(i t.e), with t ~ N(0, 2 / s^2)
           (Wang et al., NCFM, CVPR 2025, but here t is not learned)
    moments || mean_real e - mean_syn e ||^2 + 50 / D * || cov_real e - cov_syn e ||^2
           with D the size of an embedding, and the covariances divided by the number of images
           (DSDM, ACM MM 2024)

The factors s^2 / 2 and s make the values similar in size to those of `mean`, so that scales and
learning rates need not change. With a wide kernel, `rbf` would equal `mean`. If the modulus in `cf`
were squared, `cf` would equal `rbf`, except for the random frequencies (Bochner).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from condense.randomness import uniforms

_COVARIANCE = 50.0
"""The weight of the distance of the covariances, which is divided by the size of an embedding."""
FREQUENCIES = 1024
"""The number of frequencies t, which are the same in all steps, as the networks differ anyway."""


def mean_error(real: Tensor, synthetic: Tensor, error: str) -> Tensor:
    """The distance between the means of `real` [C, B, D] and `synthetic` [C, I, D]: [C].

    `error` is `mse` (squared Euclidean distance, which is a sum as in the papers, not a mean),
    `mae` (sum of absolute differences) or `cosine` (1 - cosine of the angle).

    >>> mean_error(torch.ones(1, 8, 3), torch.zeros(1, 2, 3), "mse")
    tensor([3.])
    """
    real, synthetic = real.mean(dim=1), synthetic.mean(dim=1)
    if error == "mse":
        return (real - synthetic).square().sum(dim=1)
    if error == "mae":
        return (real - synthetic).abs().sum(dim=1)
    return 1 - functional.cosine_similarity(real, synthetic, dim=1)


def rbf(real: Tensor, synthetic: Tensor) -> Tensor:
    """The `rbf` distance between `real` [C, B, D] and `synthetic` [C, I, D]: [C].

    The means include the diagonals (V-statistic), so that it is never negative.

    >>> real = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> rbf(real, real).abs().item() < 1e-6, rbf(real, real + 1).item() > 0.1
    (True, True)
    """
    real, synthetic, scale = _centred(real, synthetic)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(dim=2)[:, :, None] + b.square().sum(dim=2)[:, None] - 2 * a @ b.mT
        return torch.exp(-squares.clamp(min=0) / scale[:, None, None]).mean(dim=(1, 2))

    within = kernel(real, real) + kernel(synthetic, synthetic)
    return scale / 2 * (within - 2 * kernel(real, synthetic))


def characteristic(real: Tensor, synthetic: Tensor) -> Tensor:
    """The `cf` distance between `real` [C, B, D] and `synthetic` [C, I, D]: [C].

    >>> real = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> characteristic(real, real).item() < 1e-4, characteristic(real, real + 1).item() > 0.1
    (True, True)
    """
    real, synthetic, scale = _centred(real, synthetic)
    frequencies = _normals(real.shape[2], real.device).to(real.dtype)
    unit = (2 / scale).sqrt()[:, None, None]
    phases = [unit * embeddings @ frequencies for embeddings in (real, synthetic)]  # [C, B or I, T]
    cosines, sines = (
        function(phases[0]).mean(dim=1) - function(phases[1]).mean(dim=1)
        for function in (torch.cos, torch.sin)
    )
    # The constant is needed because the root has no gradient at 0, which is where the synthetic
    # images equal the real ones.
    return scale.sqrt() * ((cosines.square() + sines.square()) / 2 + 1e-12).sqrt().mean(dim=1)


def moments(real: Tensor, synthetic: Tensor) -> Tensor:
    """The `moments` distance between `real` [C, B, D] and `synthetic` [C, I, D]: [C].

    >>> real = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> moments(real, real + 1), moments(real, real * 0 + 1)  # variances 2 / 3 and 0
    (tensor([1.]), tensor([22.2222]))
    """
    # || A^T A - B^T B ||^2 without the D x D matrices: the squares of the products of all pairs.
    a, b = (
        (part - part.mean(dim=1, keepdim=True)) / part.shape[1] ** 0.5 for part in (real, synthetic)
    )
    squares = [
        (left @ right.mT).square().sum(dim=(1, 2)) for left, right in ((a, a), (b, b), (a, b))
    ]
    covariance = squares[0] + squares[1] - 2 * squares[2]
    return mean_error(real, synthetic, "mse") + _COVARIANCE / real.shape[2] * covariance


DISCREPANCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda real, synthetic: mean_error(real, synthetic, "mse"),
    "rbf": rbf,
    "cf": characteristic,
    "moments": moments,
}
"""The distances by name.

Each maps `real` [C, B, D], without gradient, and `synthetic` [C, I, D], with gradient, to [C]."""


def _centred(real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both sets of embeddings relative to the real mean, to avoid cancellation, and s^2, [C]."""
    middle = real.mean(dim=1, keepdim=True)
    real, synthetic = real - middle, synthetic - middle
    # Over all pairs, E || x - y ||^2 = 2 E || x - mean ||^2. For a single real image this is 0.
    return real, synthetic, (2 * real.square().sum(dim=2).mean(dim=1)).clamp(min=1e-12)


@cache
def _normals(dimensions: int, device: torch.device) -> Tensor:
    """Standard normal numbers, float32 [dimensions, FREQUENCIES]."""
    lanes = torch.arange(dimensions, device=device)
    # Multiples of 2**-24 in [0, 1); the next line shifts them by half of that.
    uniform = uniforms(0, "frequencies", 0, lanes, FREQUENCIES)
    return torch.erfinv(2 * uniform + (2.0**-24 - 1)) * 2**0.5
