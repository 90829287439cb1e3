"""Matching losses against naive float64 loops over classes and images, and their gradients against
finite differences.
"""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from condense.errors import UserError
from condense.methods import DM, DataDAM
from condense.methods.discrepancy import DISCREPANCIES, FREQUENCIES, _normals
from condense.networks.base import Network

SHAPES = [(5, 6, 6), (4, 3, 3), (7, 2, 2)]  # (channels, H, W) of three layers


class Showing(Network):
    """A network with given maps; the last one, flattened, is its embedding."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.given = maps

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.given, self.given[-1].flatten(1)


def maps_of(images: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, *shape, dtype=torch.float64, generator=generator) for shape in SHAPES
    ]


def by_class(described: list[Tensor], num_classes: int) -> list[Tensor]:
    return [tensor.unflatten(0, (num_classes, -1)) for tensor in described]


def loss(
    method: DataDAM | DM, real: list[Tensor], synthetic: list[Tensor], num_classes: int
) -> dict[str, Tensor]:
    described = [
        by_class(method.describe(Showing(maps), maps[0]), num_classes) for maps in (real, synthetic)
    ]
    return method.parts(*described)


def naive_attention(image_map: Tensor, power: float, norm: str) -> list[float]:
    """One image's attention map by the definition.

    Loops over positions and channels, in Python floats.
    """
    channels, height, width = image_map.shape
    values = [
        sum(abs(image_map[c, i, j].item()) ** power for c in range(channels))
        for i in range(height)
        for j in range(width)
    ]
    size = {"l2": math.sqrt(sum(v * v for v in values)), "l1": sum(values), "none": 1.0}[norm]
    return [v / size for v in values]


def naive_mean(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def naive_error(a: list[float], b: list[float], error: str) -> float:
    if error == "mse":
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    if error == "mae":
        return sum(abs(x - y) for x, y in zip(a, b, strict=True))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("norm", ["l2", "l1", "none"])
@pytest.mark.parametrize("error", ["mse", "mae", "cosine"])
def test_datadam_is_the_papers_loss(power: float, norm: str, error: str) -> None:
    classes, per_real, per_synthetic = 2, 4, 3
    method = DataDAM(power=power, normalise=norm, error=error, task_balance=0.3, loss_scale=7.0)  # type: ignore[arg-type]
    real, synthetic = maps_of(classes * per_real, 0), maps_of(classes * per_synthetic, 1)
    parts = loss(method, real, synthetic, classes)
    for c in range(classes):
        of_real = range(c * per_real, (c + 1) * per_real)
        of_synthetic = range(c * per_synthetic, (c + 1) * per_synthetic)
        attention = sum(
            naive_error(
                naive_mean([naive_attention(real[layer][n], power, norm) for n in of_real]),
                naive_mean(
                    [naive_attention(synthetic[layer][n], power, norm) for n in of_synthetic]
                ),
                error,
            )
            for layer in range(len(SHAPES) - 1)
        )
        mmd = naive_error(
            naive_mean([real[-1][n].flatten().tolist() for n in of_real]),
            naive_mean([synthetic[-1][n].flatten().tolist() for n in of_synthetic]),
            "mse",
        )
        assert parts["attention"][c].item() == pytest.approx(7.0 * attention, rel=1e-9, abs=1e-12)
        assert parts["mmd"][c].item() == pytest.approx(7.0 * 0.3 * mmd, rel=1e-9)


@pytest.mark.parametrize("attention", ["spatial", "channel", "both"])
def test_attention_to_channels_sums_over_positions(attention: str) -> None:
    method = DataDAM(attention=attention)  # type: ignore[arg-type]
    real, synthetic = maps_of(4, 0), maps_of(2, 1)
    # A map whose channels are the positions, and the other way round, has the other attention.
    turned = [[one.flatten(2).mT.unsqueeze(3) for one in maps] for maps in (real, synthetic)]
    expected = torch.zeros(1, dtype=torch.float64)
    for kind, maps in (("spatial", (real, synthetic)), ("channel", turned)):
        if attention in (kind, "both"):
            expected += sum(
                naive_error(
                    *(
                        naive_mean([naive_attention(image, 4.0, "l2") for image in of[layer]])
                        for of in maps
                    ),
                    "mse",
                )
                for layer in range(len(SHAPES) - 1)
            )
    torch.testing.assert_close(loss(method, real, synthetic, 1)["attention"], expected)


def naive_squares(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "method", [DM(discrepancy="rbf"), DataDAM(discrepancy="rbf", task_balance=1.0)]
)
def test_rbf_is_the_maximum_mean_discrepancy_under_a_gaussian_kernel(method: DataDAM | DM) -> None:
    real, synthetic = maps_of(6, 0), maps_of(4, 1)
    found = loss(method, real, synthetic, 2)["mmd"]
    for c in range(2):
        a, b = (
            [one.flatten().tolist() for one in maps[-1].unflatten(0, (2, -1))[c]]
            for maps in (real, synthetic)
        )
        width = sum(naive_squares(x, y) for x in a for y in a) / len(a) ** 2

        def kernel(p: list[list[float]], q: list[list[float]], width: float = width) -> float:
            return sum(math.exp(-naive_squares(x, y) / width) for x in p for y in q) / (
                len(p) * len(q)
            )

        expected = width / 2 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
        assert found[c].item() == pytest.approx(expected, rel=1e-9)


def test_cf_is_the_distance_of_characteristic_functions() -> None:
    real, synthetic = maps_of(6, 0), maps_of(4, 1)
    found = loss(DM(discrepancy="cf"), real, synthetic, 2)["mmd"]
    frequencies = _normals(28, torch.device("cpu")).double().T.tolist()
    for c in range(2):
        a, b = (
            [one.flatten().tolist() for one in maps[-1].unflatten(0, (2, -1))[c]]
            for maps in (real, synthetic)
        )
        width = sum(naive_squares(x, y) for x in a for y in a) / len(a) ** 2

        def function(points: list[list[float]], t: list[float], width: float = width) -> complex:
            angles = [
                math.sqrt(2 / width) * sum(x * y for x, y in zip(point, t, strict=True))
                for point in points
            ]
            return sum(cmath.exp(1j * angle) for angle in angles) / len(angles)

        moduli = [abs(function(a, t) - function(b, t)) for t in frequencies]
        expected = math.sqrt(width / 2) * sum(moduli) / len(moduli)
        assert found[c].item() == pytest.approx(expected, rel=1e-6)


def test_frequencies_are_standard_normal() -> None:
    numbers = _normals(64, torch.device("cpu"))
    assert numbers.shape == (64, FREQUENCIES)
    assert kstest(numbers.flatten().numpy(), "norm").pvalue > 0.01


def test_moments_add_the_distance_of_the_covariances() -> None:
    draw = torch.Generator().manual_seed(0)
    real, synthetic = (
        torch.randn(2, count, 5, dtype=torch.float64, generator=draw) for count in (7, 3)
    )
    found = DISCREPANCIES["moments"](real, synthetic)
    for c in range(2):
        means = [part[c].mean(0) for part in (real, synthetic)]
        covariances = [
            sum(torch.outer(e - mean, e - mean) for e in part[c]) / part.shape[1]
            for part, mean in zip((real, synthetic), means, strict=True)
        ]
        wanted = ((means[0] - means[1]) ** 2).sum()
        wanted = wanted + 50 / 5 * ((covariances[0] - covariances[1]) ** 2).sum()
        assert found[c].item() == pytest.approx(wanted.item(), rel=1e-9)


def test_discrepancies_tell_apart_what_has_the_same_mean() -> None:
    real = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shrunk = real.mean(dim=1, keepdim=True) + 0.1 * (real - real.mean(dim=1, keepdim=True))
    assert DISCREPANCIES["mean"](real, shrunk).item() == pytest.approx(0, abs=1e-12)
    assert DISCREPANCIES["rbf"](real, shrunk).item() > 0.1
    assert DISCREPANCIES["cf"](real, shrunk).item() > 0.1


def test_dm_matches_the_means_of_the_embeddings() -> None:
    real, synthetic = maps_of(6, 0), maps_of(4, 1)
    parts = loss(DM(loss_scale=2.0), real, synthetic, 2)
    for c in range(2):
        means = [
            naive_mean([maps[-1][n].flatten().tolist() for n in range(c * per, (c + 1) * per)])
            for maps, per in ((real, 3), (synthetic, 2))
        ]
        assert parts["mmd"][c].item() == pytest.approx(2.0 * naive_error(*means, "mse"), rel=1e-9)


@pytest.mark.parametrize(
    "method",
    [
        DataDAM(),
        DataDAM(power=2.0, normalise="l1", error="cosine"),
        DataDAM(power=3.0, normalise="none", task_balance=1.0),
        DataDAM(attention="both"),
        DM(),
        DM(discrepancy="rbf"),
        DM(discrepancy="cf"),
    ],
)
def test_gradient_against_finite_differences(method: DataDAM | DM) -> None:
    real, synthetic = maps_of(4, 0), [m.requires_grad_() for m in maps_of(2, 1)]

    def total(*maps: Tensor) -> Tensor:
        return torch.stack(list(loss(method, real, list(maps), 2).values())).sum()

    assert torch.autograd.gradcheck(total, tuple(synthetic))


@given(shift=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_order_of_the_images_does_not_matter(shift: int, seed: int) -> None:
    real, synthetic = maps_of(6, seed), maps_of(6, seed + 1)
    before = loss(DataDAM(), real, synthetic, 1)
    after = loss(DataDAM(), [m.roll(shift, 0) for m in real], synthetic, 1)
    for name in before:
        torch.testing.assert_close(before[name], after[name])


def test_a_set_equal_to_the_real_images_has_no_loss() -> None:
    maps = maps_of(6, 0)
    for method in (DataDAM(), DM(), DM(discrepancy="rbf")):
        for part in loss(method, maps, maps, 3).values():
            torch.testing.assert_close(part, torch.zeros(3, dtype=torch.float64))


def test_layers_chooses_what_is_matched() -> None:
    described = DataDAM(layers=(2,)).describe(Showing(maps_of(2, 0)), torch.zeros(2, 3, 4, 4))
    assert [tuple(d.shape) for d in described] == [(2, 4), (2, 28)]
    with pytest.raises(UserError, match="layers 0 to 2"):
        DataDAM(layers=(3,)).describe(Showing(maps_of(2, 0)), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"power": 0.0},
        {"attention": "all"},
        {"normalise": "l3"},
        {"error": "kl"},
        {"task_balance": -1.0},
        {"discrepancy": "kl"},
        {"loss_scale": 0.0},
    ],
)
def test_hyperparameters_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(UserError, match=f"`{next(iter(wrong))}`"):
        DataDAM(**wrong)


def test_half_precision_maps_are_summed_in_float32() -> None:
    maps = [m.bfloat16() for m in maps_of(2, 0)]
    described = DataDAM().describe(Showing(maps), maps[0])
    assert {d.dtype for d in described} == {torch.float32}
