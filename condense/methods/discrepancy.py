"""How far the embeddings of a class's synthetic images are from those of its real ones: the last term of DataDAM and DM.

With e the embeddings and s^2 the mean squared distance between two real images of the class:

    mean   || mean_real e - mean_syn e ||^2                              the linear kernel (Zhao and Bilen, DM, WACV 2023)
    rbf    s^2 / 2 * MMD^2 with k(x, y) = exp(-|| x - y ||^2 / s^2)      all moments (Zhang et al., M3D, AAAI 2024)
    cf     s * mean over frequencies t of | f_real(t) - f_syn(t) | / sqrt(2), with f(t) = mean exp(i t.e)
           the characteristic functions, t ~ N(0, 2 / s^2)               (Wang et al., NCFM, CVPR 2025; t not learned)

The factors s^2 / 2 and s bring the others to about the size of the first, so that scales and rates can stay: for a wide kernel
rbf would be mean. With the modulus squared, cf would be rbf, but for the sample of frequencies (Bochner).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from condense.methods.base import mean_error
from condense.randomness import uniforms

FREQUENCIES = 1024
"""Frequencies t: the same for all steps, whose networks differ."""


def rbf(real: Tensor, synthetic: Tensor) -> Tensor:
    """`real` [C, B, D] and `synthetic` [C, I, D]: [C], with the diagonals in the means (V-statistic), so never below 0."""
    real, synthetic, scale = _centred(real, synthetic)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(dim=2)[:, :, None] + b.square().sum(dim=2)[:, None] - 2 * a @ b.mT
        return torch.exp(-squares.clamp(min=0) / scale[:, None, None]).mean(dim=(1, 2))

    return (
        scale
        / 2
        * (kernel(real, real) + kernel(synthetic, synthetic) - 2 * kernel(real, synthetic))
    )


def characteristic(real: Tensor, synthetic: Tensor) -> Tensor:
    """`real` [C, B, D] and `synthetic` [C, I, D]: [C]."""
    real, synthetic, scale = _centred(real, synthetic)
    frequencies, unit = (
        _normals(real.shape[2], real.device).to(real.dtype),
        (2 / scale).sqrt()[:, None, None],
    )
    phases = [unit * embeddings @ frequencies for embeddings in (real, synthetic)]  # [C, B or I, T]
    cosines, sines = (
        function(phases[0]).mean(dim=1) - function(phases[1]).mean(dim=1)
        for function in (torch.cos, torch.sin)
    )
    # The root has no gradient at 0, where a class's images are its real ones.
    return scale.sqrt() * ((cosines.square() + sines.square()) / 2 + 1e-12).sqrt().mean(dim=1)


DISCREPANCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda real, synthetic: mean_error(real, synthetic, "mse"),
    "rbf": rbf,
    "cf": characteristic,
}
"""By name: of `real` [C, B, D], without gradient, and `synthetic` [C, I, D], with; returns [C]."""


def _centred(real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both about the real mean, against cancellation, and s^2, [C]."""
    middle = real.mean(dim=1, keepdim=True)
    real, synthetic = real - middle, synthetic - middle
    # Over all pairs, E || x - y ||^2 = 2 E || x - mean ||^2. A single real image has no spread.
    return real, synthetic, (2 * real.square().sum(dim=2).mean(dim=1)).clamp(min=1e-12)


@cache
def _normals(dimensions: int, device: torch.device) -> Tensor:
    """Standard normal numbers, float32 [dimensions, FREQUENCIES]."""
    lanes = torch.arange(dimensions, device=device)
    uniform = uniforms(
        0, "frequencies", 0, lanes, FREQUENCIES
    )  # multiples of 2**-24 in [0, 1), moved by half of that
    return torch.erfinv(2 * uniform + (2.0**-24 - 1)) * 2**0.5
