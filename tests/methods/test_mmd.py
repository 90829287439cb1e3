"""MMD in pixel space against the kernel two-sample statistic itself."""

import pytest
import torch

from condense import condense, load_dataset, recipe_for
from condense.methods import MMD
from condense.networks.base import Network


def test_it_is_the_squared_mmd_with_a_linear_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    real, synthetic = (
        torch.randn(2, n, 3, 4, 4, dtype=torch.float64, generator=generator) for n in (5, 3)
    )
    method = MMD(loss_scale=2.0)
    described = [
        [d.unflatten(0, (2, -1)) for d in method.describe(Network(), s.flatten(0, 1))]
        for s in (real, synthetic)
    ]
    found = method.parts(*described)["mmd"]
    for c in range(2):

        def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> float:
            return sum((x * y).sum().item() for x in a for y in b) / (len(a) * len(b))

        wanted = (
            mean_kernel(real[c], real[c])
            - 2 * mean_kernel(real[c], synthetic[c])
            + mean_kernel(synthetic[c], synthetic[c])
        )
        assert found[c].item() == pytest.approx(2.0 * wanted, rel=1e-9)


def test_at_its_own_rate_one_image_becomes_the_mean_of_its_class() -> None:
    digits = load_dataset("digits")
    recipe = recipe_for("mmd", digits.name, digits.shape, 1).override(
        {"steps": 60, "real_batch": 64}
    )
    made = condense(digits, ipc=1, recipe=recipe, quiet=True)
    real = made.preprocess.apply(digits.train.pixels)
    means = torch.stack([real[digits.train.labels == c].mean(dim=0) for c in range(10)])
    assert (made.images - means).square().mean() < 0.1 * (
        real[:100] - means[digits.train.labels[:100]]
    ).square().mean()
