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

The factors s^2 / 2 and s make the values similar in size to those of `mean`, so that scales and
learning rates need not change. With a wide kernel, `rbf` would equal `mean`. If the modulus in `cf`
were squared, `cf` would equal `rbf`, except for the random frequencies (Bochner).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from condense.methods.base import mean_error
from condense.randomness import uniforms

FREQUENCIES = 1024
"""The number of frequencies t, which are the same in all steps, as the networks differ anyway."""


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


DISCREPANCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda real, synthetic: mean_error(real, synthetic, "mse"),
    "rbf": rbf,
    "cf": characteristic,
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
