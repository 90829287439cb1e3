"""Every operation against a loop over pixels in float64.

What is drawn, by whom, how often; gradients.
"""

import math
from collections.abc import Callable

import pytest
import torch
from launches import Launches
from scipy import stats

from condense.data.augment import DSA, Chain, make_augment, suited
from condense.data.operations import OPERATIONS
from condense.data.preprocess import Standardize
from condense.errors import UserError
from condense.randomness import derive, uniforms

ALMOST_ONE = 1 - 2**-24


# One image [ch, H, W] in float64 and its three uniform numbers: the operations by their definition,
# pixel by pixel.


def naive_color(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    image = image + (u[0] - 0.5)
    saturated = image.clone()
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            mean = sum(image[:, row, column].tolist()) / image.shape[0]
            saturated[:, row, column] = (image[:, row, column] - mean) * (2 * u[1]) + mean
    mean = sum(saturated.flatten().tolist()) / saturated.numel()
    return (saturated - mean) * (u[2] + 0.5) + mean


def naive_crop(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    height, width = image.shape[1:]
    largest = [int(size * 0.125 + 0.5) for size in (height, width)]
    down, right = (
        int(number * (2 * most + 1)) - most for number, most in zip(u, largest, strict=False)
    )
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def naive_cutout(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    height, width = image.shape[1:]
    result = image.clone()
    spans = []
    for number, size in zip(u, (height, width), strict=False):
        length = int(size * 0.5 + 0.5)
        centre = int(number * (size + 1 if length % 2 == 0 else size))
        spans.append(range(centre - length // 2, centre - length // 2 + length))
    for row in spans[0]:
        for column in spans[1]:
            if 0 <= row < height and 0 <= column < width:
                result[:, row, column] = 0
    return result


def naive_flip(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    if u[0] >= 0.5:
        return image
    result = image.clone()
    for column in range(image.shape[2]):
        result[:, :, column] = image[:, :, image.shape[2] - 1 - column]
    return result


def naive_warp(
    image: torch.Tensor, source: Callable[[float, float], tuple[float, float]]
) -> torch.Tensor:
    """Bilinear sampling at `source(x, y)`.

    X and y in [-1, 1] from the first pixel's edge to the last one's.
    """
    height, width = image.shape[1:]
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = source((2 * column + 1) / width - 1, (2 * row + 1) / height - 1)
            x, y = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            for near_row in (math.floor(y), math.floor(y) + 1):
                for near_column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= near_row < height and 0 <= near_column < width:
                        weight = (1 - abs(y - near_row)) * (1 - abs(x - near_column))
                        result[:, row, column] += weight * image[:, near_row, near_column]
    return result


def naive_scale(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    across, down = (1 / 1.2 + number * (1.2 - 1 / 1.2) for number in u[:2])
    return naive_warp(image, lambda x, y: (across * x, down * y))


def naive_rotate(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    angle = math.radians(-15 + 30 * u[0])
    cos, sin = math.cos(angle), math.sin(angle)
    return naive_warp(image, lambda x, y: (cos * x - sin * y, sin * x + cos * y))


NAIVE = {
    "color": naive_color,
    "crop": naive_crop,
    "cutout": naive_cutout,
    "flip": naive_flip,
    "scale": naive_scale,
    "rotate": naive_rotate,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expand(images: torch.Tensor, count: int) -> torch.Tensor:
    """`count` copies of one image."""
    return images.expand(count, *images.shape[-3:]).contiguous()


def test_every_operation_has_a_reference() -> None:
    assert list(NAIVE) == list(OPERATIONS)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 11, 11), (3, 12, 9), (2, 1, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_against_a_loop_over_pixels(
    operation: str, layout: torch.memory_format, shape: tuple[int, int, int]
) -> None:
    u = torch.rand(12, 3, generator=torch.Generator().manual_seed(1))
    u[0], u[1], u[2, :2] = 0, ALMOST_ONE, torch.tensor([0.0, ALMOST_ONE])
    images = noise(12, *shape).contiguous(memory_format=layout)
    chosen = torch.arange(12) % 4 != 3
    result = OPERATIONS[operation](images, chosen, u)
    assert result.dtype == torch.float32
    assert torch.equal(result[~chosen], images[~chosen])
    for n in chosen.nonzero().flatten().tolist():
        expected = NAIVE[operation](images[n].double(), u[n].tolist())
        torch.testing.assert_close(result[n].double(), expected, atol=2e-5, rtol=0)
        if operation in ("crop", "cutout", "flip"):
            assert torch.equal(result[n].double(), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_at_32_pixels(operation: str) -> None:
    images, u = noise(2, 3, 32, 32), torch.tensor([[0.1, 0.9, 0.3], [0.4, 0.2, 0.8]])
    result = OPERATIONS[operation](images, torch.tensor([True, True]), u)
    for n in range(2):
        expected = NAIVE[operation](images[n].double(), u[n].tolist())
        torch.testing.assert_close(result[n].double(), expected, atol=5e-5, rtol=0)


# What is drawn, measured on the results alone, through the public interface.


def test_matching_applies_exactly_one_operation_and_each_as_often() -> None:
    classes = torch.arange(300)
    images = noise(300, 2, 6, 6)
    results = make_augment("dsa").matching(images, classes, seed=0, step=3)
    parameters = uniforms(0, "augment matching", 3, classes, 4)[:, 1:].tolist()
    counts = dict.fromkeys(NAIVE, 0)
    for image, result, u in zip(images.double(), results.double(), parameters, strict=True):
        fits = [
            name
            for name, naive in NAIVE.items()
            if torch.allclose(naive(image, u), result, atol=1e-4)
        ]
        if torch.equal(image, result):  # a flip that kept the image, or the crop by nothing
            assert set(fits) <= {"flip", "crop"}
        assert len(fits) == 1 or torch.equal(image, result)
        counts[fits[0]] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def single(operation: str, image: torch.Tensor, count: int = 3000) -> torch.Tensor:
    """`count` draws of one operation on one image."""
    return make_augment(operation).matching(
        expand(image, count), torch.arange(count), seed=5, step=9
    )


def is_uniform(values: torch.Tensor, low: float, high: float) -> bool:
    inside = (
        low - 1e-4 <= values.min() < low + 0.02 * (high - low)
        and high - 0.02 * (high - low) < values.max() <= high + 1e-4
    )
    return bool(inside) and stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_color_parameters_are_uniform_and_independent() -> None:
    image = noise(3, 4, 4).double()
    results = single("color", image)
    # result = c s x + c (1 - s) m + ((1 - c) M + b): three numbers by least squares for every draw.
    grey = image.mean(0, keepdim=True).expand_as(image)
    design = torch.stack(
        [image.flatten(), grey.flatten(), torch.ones(48, dtype=torch.float64)], dim=1
    )
    both, rest, constant = torch.linalg.lstsq(design, results.flatten(1).T).solution
    contrast = both + rest
    brightness, saturation = constant - (1 - contrast) * image.mean(), both / contrast
    assert is_uniform(brightness, -0.5, 0.5)
    assert is_uniform(saturation, 0, 2)
    assert is_uniform(contrast, 0.5, 1.5)
    correlations = torch.corrcoef(torch.stack([brightness, saturation, contrast])) - torch.eye(3)
    assert correlations.abs().max() < 4 / math.sqrt(3000)


@pytest.mark.parametrize(("size", "most"), [(32, 4), (28, 4), (8, 1), (64, 8)])
def test_crop_shifts_are_uniform(size: int, most: int) -> None:
    position = torch.arange(1.0, size * size + 1).view(1, size, size)
    centre = single("crop", position)[:, 0, size // 2, size // 2].long() - 1
    down, right = centre // size - size // 2, centre % size - size // 2
    cells = (down + most) * (2 * most + 1) + right + most
    assert down.abs().max() == right.abs().max() == most
    assert stats.chisquare(cells.bincount(minlength=(2 * most + 1) ** 2).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("size", "length"), [(32, 16), (8, 4), (10, 5), (7, 4)])
def test_cutout_places_are_uniform(size: int, length: int) -> None:
    holes = single("cutout", torch.ones(1, size, size))[:, 0] == 0
    spans = []
    for axis in (1, 2):
        covered = holes.any(dim=axis)
        first, total = covered.long().argmax(1), covered.sum(1)
        start = torch.where(first > 0, first, total - length)  # clipped at the near border
        assert total.max() == length
        assert torch.equal(total, (start + length).clamp(max=size) - start.clamp(min=0))
        spans.append(start - start.min())
    places = size + 1 - length % 2
    for span in spans:
        assert stats.chisquare(span.bincount(minlength=places).numpy()).pvalue > 1e-3
    assert torch.equal(holes.flatten(1).sum(1), holes.any(2).sum(1) * holes.any(1).sum(1))
    assert abs(torch.corrcoef(torch.stack(spans).double())[0, 1]) < 4 / math.sqrt(3000)


def test_flip_has_probability_one_half() -> None:
    image = noise(1, 2, 2)
    flipped = (single("flip", image) == image.flip(2)).flatten(1).all(1)
    assert stats.binomtest(int(flipped.sum()), 3000).pvalue > 1e-3


def test_which_operation_is_drawn_says_nothing_about_its_parameters() -> None:
    image = noise(1, 2, 2)
    flipped = (single("cutout_flip", image) == image.flip(2)).flatten(1).all(1)
    assert stats.binomtest(int(flipped.sum()), 3000, 0.25).pvalue > 1e-3


def ramps(size: int) -> torch.Tensor:
    """Two channels that hold each pixel's x and y in [-1, 1].

    Bilinear sampling is exact on them, off the border.
    """
    line = (2 * torch.arange(size) + 1) / size - 1
    return torch.stack([line.expand(size, size), line[:, None].expand(size, size)])


def test_scale_factors_are_uniform_and_independent() -> None:
    results = single("scale", ramps(8))
    across, down = results[:, 0, 4, 4] / ramps(8)[0, 4, 4], results[:, 1, 4, 4] / ramps(8)[1, 4, 4]
    assert is_uniform(across, 1 / 1.2, 1.2)
    assert is_uniform(down, 1 / 1.2, 1.2)
    assert abs(torch.corrcoef(torch.stack([across, down]))[0, 1]) < 4 / math.sqrt(3000)


def test_rotation_angles_are_uniform() -> None:
    results = single("rotate", ramps(8))
    x, y = results[:, 0, 4, 5], results[:, 1, 4, 5]
    x0, y0 = ramps(8)[:, 4, 5]
    angles = torch.rad2deg(torch.atan2(y, x) - torch.atan2(y0, x0))
    assert is_uniform(angles, -15, 15)
    torch.testing.assert_close(x.square() + y.square(), (x0**2 + y0**2).expand(3000))


# Who shares a draw.


def test_real_and_synthetic_images_of_a_class_share_the_draw() -> None:
    augment, classes = make_augment("dsa"), torch.arange(40)
    image = noise(3, 8, 8)
    real = augment.matching(expand(image, 40 * 5), classes, 1, 2).unflatten(0, (40, 5))
    synthetic = augment.matching(expand(image, 40 * 2), classes, 1, 2).unflatten(0, (40, 2))
    assert torch.equal(real, real[:, :1].expand_as(real))
    assert torch.equal(synthetic, real[:, :2])
    assert len({tuple(one.flatten().tolist()) for one in real[:, 0]}) > 20


def test_draws_depend_on_the_class_not_on_the_chunk() -> None:
    augment, classes = make_augment("dsa"), torch.arange(30)
    images = noise(30, 2, 3, 8, 8)
    whole = augment.matching(images.flatten(0, 1), classes, 1, 2).unflatten(0, (30, 2))
    for chunk in (torch.arange(0, 7), torch.arange(7, 30), torch.tensor([29, 3, 11])):
        assert torch.equal(
            augment.matching(images[chunk].flatten(0, 1), chunk, 1, 2).unflatten(
                0, (len(chunk), 2)
            ),
            whole[chunk],
        )


@pytest.mark.parametrize("name", ["dsa", "idc"])
@pytest.mark.parametrize("call", ["matching", "training"])
def test_the_step_may_be_a_tensor_and_every_step_differs(call: str, name: str) -> None:
    augment, images, extra = (
        make_augment(name),
        noise(24, 3, 8, 8),
        [torch.arange(12)] if call == "matching" else [],
    )

    def run(seed: int, step: int | torch.Tensor) -> torch.Tensor:
        return getattr(augment, call)(images, *extra, seed, step)

    seen = []
    for step in range(12):
        seen.append(run(0, step))
        assert torch.equal(seen[-1], run(0, torch.tensor(step)))
    assert all(not torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])
    assert not torch.equal(run(0, 0), run(1, 0))


def test_training_applies_one_operation_a_batch_with_parameters_per_image() -> None:
    image, seen = noise(3, 6, 6), set()
    for step in range(40):
        results = make_augment("dsa").training(expand(image, 24), seed=2, step=step)
        parameters = uniforms(2, "augment training images", step, torch.arange(24), 3).tolist()
        fits = [
            name
            for name, naive in NAIVE.items()
            if all(
                torch.allclose(naive(image.double(), u), one.double(), atol=1e-4)
                for one, u in zip(results, parameters, strict=True)
            )
        ]
        assert len(fits) == 1
        seen.update(fits)
        assert not torch.equal(results, expand(results[0], 24))
    assert seen == set(NAIVE)


@pytest.mark.parametrize("name", ["dsa", "idc"])
def test_nothing_is_read_back_to_the_host(name: str) -> None:
    # Tensors on the `meta` device have no values: reading one, or a shape that depends on one,
    # raises.
    images, classes, step = (
        torch.empty(12, 3, 8, 8, device="meta"),
        torch.empty(4, dtype=torch.int64, device="meta"),
        torch.tensor(0),
    )
    augment = make_augment(name)
    assert augment.matching(images, classes, 0, step.to("meta")).shape == images.shape
    assert augment.matching(images, classes, 0, 7).shape == images.shape
    assert augment.training(images, 0, step.to("meta")).shape == images.shape


# Several operations at once.


def applied(image: torch.Tensor, operations: list[str], draws: list[list[float]]) -> torch.Tensor:
    """An image after several operations by their references, one after the other."""
    for operation, u in zip(operations, draws, strict=True):
        image = NAIVE[operation](image, u)
    return image


def test_idc_matches_under_color_crop_and_cutout_all_three_shared_by_a_class() -> None:
    augment, classes, image = make_augment("idc"), torch.arange(20), noise(3, 8, 8)
    real = augment.matching(expand(image, 20 * 5), classes, 1, 2).unflatten(0, (20, 5))
    synthetic = augment.matching(expand(image, 20 * 2), classes, 1, 2).unflatten(0, (20, 2))
    assert torch.equal(real, real[:, :1].expand_as(real))
    assert torch.equal(synthetic, real[:, :2])
    for c in range(20):
        draws = [
            uniforms(derive(1, "augment link", place), "augment matching", 2, classes, 4)[c, 1:]
            for place in range(3)
        ]
        wanted = applied(image.double(), ["color", "crop", "cutout"], [u.tolist() for u in draws])
        torch.testing.assert_close(real[c, 0].double(), wanted, atol=1e-4, rtol=0)


def test_idc_trains_with_color_a_flip_in_half_and_one_of_three() -> None:
    image, seen, flipped = noise(3, 6, 6), set(), 0
    for step in range(30):
        results = make_augment("idc").training(expand(image, 12), seed=2, step=step)
        draws = [
            uniforms(
                derive(2, "augment link", place), "augment training images", step,
                torch.arange(12), 3,
            ).tolist()
            for place in range(3)
        ]  # fmt: skip
        flipped += sum(u[0] < 0.5 for u in draws[1])
        fits = [
            last
            for last in ("crop", "scale", "rotate")
            if all(
                torch.allclose(
                    applied(image.double(), ["color", "flip", last], list(own)),
                    one.double(),
                    atol=1e-4,
                )
                for one, *own in zip(results, *draws, strict=True)
            )
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert seen == {"crop", "scale", "rotate"}
    assert stats.binomtest(flipped, 30 * 12).pvalue > 1e-3


def test_digits_are_not_mirrored_by_idc() -> None:
    assert suited("idc", "mnist") == "idc-noflip"
    upright = make_augment("idc-noflip")
    assert isinstance(upright, Chain)
    assert "flip" not in {op for link in upright.when_training for op in link.operations}


# Gradients.


@pytest.mark.parametrize("strategy", [*OPERATIONS, "dsa", "idc", "color+crop_scale"])
def test_gradient_against_finite_differences(strategy: str) -> None:
    augment, classes = make_augment(strategy), torch.arange(5)
    images = noise(10, 2, 5, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.matching(x, classes, 0, 1), images)
    assert torch.autograd.gradcheck(
        lambda x: augment.training(x, 0, 1), images[:3].detach().requires_grad_()
    )


# Names.


def test_names() -> None:
    assert (
        make_augment("dsa")
        == DSA(tuple(NAIVE))
        == make_augment("color_crop_cutout_flip_scale_rotate")
    )
    assert make_augment("dsa-noflip") == make_augment("color_crop_cutout_scale_rotate")
    assert make_augment("crop_color") == make_augment("color_crop")
    assert make_augment("idc").when_matching == make_augment("color+crop+cutout").when_matching
    for name in ("none", "color_crop", "flip"):
        assert make_augment(name).name == name
        assert make_augment(make_augment(name).name) == make_augment(name)
    images = noise(4, 3, 8, 8)
    assert make_augment("none").matching(images, torch.arange(2), 0, 0) is images
    assert make_augment("none").training(images, 0, 0) is images


def test_bad_input_is_named_in_one_line() -> None:
    images, pixels = noise(5, 3, 8, 8), torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    identity = Standardize(torch.zeros(3), torch.ones(3))
    cases = [
        (lambda: make_augment("dsaa"), "did you mean `dsa`"),
        (lambda: make_augment("color_crp"), "did you mean `crop`"),
        (lambda: make_augment(""), "unknown augmentation"),
        (lambda: make_augment("color_color"), "twice"),
        (lambda: make_augment("color+"), "unknown augmentation"),
        (
            lambda: make_augment("autoaugment").training(images, 0, 0),
            "make it with the `preprocess`",
        ),
        (lambda: make_augment("dsa").matching(images, torch.arange(2), 0, 0), "equal size"),
        (lambda: make_augment("dsa").matching(images, torch.arange(0), 0, 0), "equal size"),
        (
            lambda: make_augment("randaugment", identity).matching(images, torch.arange(1), 0, 0),
            "no gradient",
        ),
        (
            lambda: make_augment("randaugment", identity).training(pixels.float(), 0, 0),
            "1 or 3 channels",
        ),
    ]
    for call, words in cases:
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


# torchvision's policies.


@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_are_seeded_and_stay_pixels(name: str, channels: int) -> None:
    pixels = torch.randint(
        0,
        256,
        (16, channels, 16, 16),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    preprocess = Standardize(torch.full((channels,), 0.4), torch.full((channels,), 0.2))
    augment, images = make_augment(name, preprocess), preprocess.apply(pixels)
    before = torch.get_rng_state()
    result = augment.training(images, seed=3, step=4)
    assert torch.equal(before, torch.get_rng_state())
    assert result.dtype == torch.float32
    assert torch.equal(result, augment.training(images, seed=3, step=torch.tensor(4)))
    assert not torch.equal(result, augment.training(images, seed=3, step=5))
    grey = preprocess.unapply(result) * 255
    torch.testing.assert_close(grey, grey.round().clamp(0, 255), atol=1e-3, rtol=0)
    changed = (preprocess.quantise(result) != pixels).flatten(1).any(1)
    assert changed.sum() >= 8
    # Images draw on their own: copies of one image come out in several ways.
    copies = augment.training(expand(images[0], 16), seed=3, step=4)
    assert len({tuple(one.flatten().tolist()) for one in copies}) > 5


@pytest.mark.parametrize("name", ["dsa", "idc", "none", "color+crop"])
def test_only_what_a_step_draws_is_launched_and_changes_no_bit(name: str) -> None:
    """The number of the step is a tensor, as in a CUDA graph, and what it draws is known ahead."""
    augment, images = make_augment(name), torch.rand(6, 3, 8, 8)
    launched = {"all": 0, "drawn": 0}
    for step in range(12):
        for which, one in (("all", augment), ("drawn", augment.drawn(3, step))):
            with Launches() as launches:
                result = one.training(images, 3, torch.tensor(step))
            launched[which] += launches.count
            assert torch.equal(result, augment.training(images, 3, step))
    if name == "dsa":
        assert launched["drawn"] < 0.4 * launched["all"]
    assert launched["drawn"] <= launched["all"]
