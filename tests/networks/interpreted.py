"""The kernels between two convolutions against the formula, in Triton's interpreter, on a CPU.

`test_fused.py` runs this file with TRITON_INTERPRET=1, which Triton reads when it is imported.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from condense.data.images import Dataset, Images
from condense.data.preprocess import make_preprocess
from condense.methods.recipes import recipe_for
from condense.networks import base, fused
from condense.networks.build import build, initialise
from condense.runs.engine import Engine

EPS = 1e-5


def formula(x: Tensor, weight: Tensor, bias: Tensor, power: float) -> tuple[Tensor, Tensor]:
    y = functional.group_norm(x, x.shape[1], weight, bias, EPS).relu()
    return functional.avg_pool2d(y, 2), y.pow(power).sum(dim=1) * (power > 0)


def kernel(x: Tensor, weight: Tensor, bias: Tensor, power: float) -> tuple[Tensor, Tensor]:
    return fused.norm_relu_pool(x, weight, bias, eps=EPS, power=power)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def compared(x: Tensor, power: float) -> list[tuple[Tensor, Tensor]]:
    """Pooled, attention and the three gradients: of the kernels, and of the formula in float64."""
    images, channels, height, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    given = [x, (1 + noise(channels)).to(wide), noise(1, channels)[0].to(wide)]
    towards = [noise(images, channels, height // 2, width // 2), noise(images, height, width)]
    towards[0] = towards[0].to(x.dtype).double()  # gradients are of the type of their map
    results = []
    for run, dtypes in ((kernel, [x.dtype, wide, wide]), (formula, [torch.float64] * 3)):
        leaves = [
            each.detach().to(dtype).requires_grad_()
            for each, dtype in zip(given, dtypes, strict=True)
        ]
        outputs = run(*leaves, power)
        total = sum((out.double() * to).sum() for out, to in zip(outputs, towards, strict=True))
        gradients = torch.autograd.grad(total, leaves)
        results.append([each.detach().double() for each in (*outputs, *gradients)])
    return list(zip(*results, strict=True))


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()


SHAPES = {
    "two images of odd sides": (2, 3, 7, 9),
    "32 px, two shares of channels": (1, 20, 32, 32),
}


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5, 4.0])
def test_every_power_is_that_of_the_formula(power: float) -> None:
    for found, wanted in compared(noise(1, 5, 8, 8), power):
        assert distance(found, wanted) < 1e-12


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_that_of_the_formula(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_FORWARD_VALUES", 2**14)
    x = noise(*shape).float().to(memory_format=torch.channels_last)
    for found, wanted in compared(x, 4.0):
        assert distance(found, wanted) < 1e-5  # float32 rounds to 6e-8, and sums 1,024 of them


def test_without_attention_only_the_pooled_map_counts() -> None:
    (pooled, attention, *gradients) = compared(noise(1, 5, 8, 8), 0.0)
    assert not attention[0].any()
    for found, wanted in (pooled, *gradients):
        assert distance(found, wanted) < 1e-12


def test_a_map_in_tiles_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FORWARD_VALUES", "_BACKWARD_VALUES"):
        monkeypatch.setattr(fused, name, 2**9)
    assert fused._launch(5, 8, 10, 2**9)[:2] == (8, 8)  # 20 windows, so three tiles
    for found, wanted in compared(noise(1, 5, 8, 10), 4.0):
        assert distance(found, wanted) < 1e-12


def test_a_large_mean_cancels_nothing() -> None:
    for found, wanted in compared(1000 + noise(1, 5, 8, 8).float(), 2.0):
        assert distance(found, wanted) < 1e-3  # x is itself rounded to 3e-5


def test_bfloat16_is_rounded_only_where_it_is_stored() -> None:
    pooled, attention, d_x, d_weight, d_bias = compared(noise(1, 5, 8, 8).bfloat16(), 4.0)
    # A unit in the last place is up to 2**-7 of a value. The interpreter cuts off what is below it,
    # where a GPU rounds.
    for stored in (pooled, d_x):
        assert 1e-4 < distance(*stored) < 2**-7
    for summed in (attention, d_weight, d_bias):
        assert distance(*summed) < 1e-5  # float32


def test_the_layout_of_x_is_that_of_the_results() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = noise(1, 3, 4, 4).to(memory_format=layout).requires_grad_()
        pooled, attention = kernel(x, noise(3), noise(3), 1.0)
        (gradient,) = torch.autograd.grad(pooled.sum() + attention.sum(), x)
        assert pooled.is_contiguous(memory_format=layout)
        assert gradient.is_contiguous(memory_format=layout)


def test_the_gradient_of_x_by_finite_differences() -> None:
    weight, bias = 1 + noise(2), noise(2)
    assert torch.autograd.gradcheck(
        lambda x: kernel(x, weight, bias, 2.0),
        [noise(1, 2, 3, 4).requires_grad_()],
        fast_mode=True,
        check_undefined_grad=False,
    )


def test_nan_stays_nan() -> None:
    x = noise(1, 2, 4, 4)
    x[0, 1, 2, 3] = torch.nan
    pooled, attention = kernel(x, noise(2), noise(2), 2.5)
    assert pooled[0, 1].isnan().all()
    assert not pooled[0, 0].isnan().any()
    assert attention.isnan().all()


def dataset() -> Dataset:
    pixels = torch.randint(
        0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = Images(pixels, torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b"))
    return Dataset("made up", images, images)


def test_a_step_with_the_kernels_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    changes = {"network": "convnet-d2-w4", "real_batch": 1}
    recipe = recipe_for("paper", "made up", data.shape, 1).override(changes)
    engine = Engine(
        data,
        recipe,
        make_preprocess("standard", data),
        noise(2, 3, 8, 8).float(),
        seed=0,
        device=torch.device("cpu"),
        compiled=False,
    )
    initialise(engine.network, 0, 0)
    results = []
    for kernels in (False, True):
        monkeypatch.setattr(base, "_takes_kernels", lambda x, kernels=kernels: kernels)
        parts, gradient = engine.gradient(engine.classes, engine.images, 0)
        results.append((gradient, *parts.values()))
    for plain, found in zip(*results, strict=True):
        assert plain.any()
        assert distance(found, plain) < 1e-5
    assert not torch.equal(*(gradient for gradient, *_ in results))  # the kernels did run


def test_training_with_the_kernels_has_the_plain_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = build("convnet-d2-w4", (3, 8, 8), 2), noise(1, 3, 8, 8).float()
    results = []
    for kernels in (False, True):
        monkeypatch.setattr(base, "_takes_kernels", lambda x, kernels=kernels: kernels)
        gradients = torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
        results.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert distance(*results) < 1e-5
