"""Preprocessing against float64 NumPy; inverses; what is saved; errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.data import preprocess
from condense.data.images import Dataset, Images
from condense.data.preprocess import Preprocess, Standardize, Whiten, from_state, make_preprocess
from condense.errors import UserError


def photographs(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """uint8 images whose neighbouring pixels and channels are correlated, as in photographs."""
    random = np.random.default_rng(seed)
    values = np.cumsum(
        np.cumsum(random.normal(size=(count, *shape)), axis=2), axis=3
    ) + 3 * random.normal(size=(count, 1, 1, 1))
    return torch.from_numpy((128 + 12 * values).clip(0, 255).astype(np.uint8))


def zca64(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening matrix by the definition, in float64, through the eigenvectors of the
    covariance.
    """
    flat = pixels.numpy().reshape(len(pixels), -1) / 255.0
    mean = flat.mean(axis=0)
    covariance = (flat - mean).T @ (flat - mean) / (len(flat) - 1)
    variances, directions = np.linalg.eigh(covariance)
    return mean, directions @ np.diag((variances + 0.1) ** -0.5) @ directions.T


@pytest.fixture(params=["standard", "zca"])
def fitted(request: pytest.FixtureRequest) -> Preprocess:
    return preprocess.PREPROCESS[request.param].fit(photographs(60, (3, 8, 8)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9)])
def test_standardize_against_numpy(shape: tuple[int, int, int]) -> None:
    pixels = photographs(50, shape)
    values = pixels.numpy() / 255.0
    mean, std = (
        values.mean(axis=(0, 2, 3), keepdims=True),
        values.std(axis=(0, 2, 3), keepdims=True),
    )
    found = Standardize.fit(pixels)
    np.testing.assert_allclose(found.mean, mean.ravel(), rtol=1e-6)
    np.testing.assert_allclose(found.std, std.ravel(), rtol=1e-6)
    images = found.apply(pixels)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images, (values - mean) / std, atol=1e-5)


def test_a_constant_channel_stays_finite() -> None:
    pixels = photographs(20, (2, 4, 4))
    pixels[:, 1] = 7
    found = Standardize.fit(pixels)
    assert found.std[1].item() == pytest.approx(1 / 255)
    np.testing.assert_allclose(found.apply(pixels)[:, 1], 0, atol=1e-5)


@pytest.mark.parametrize(("count", "shape"), [(400, (3, 6, 6)), (30, (3, 6, 6)), (100, (1, 7, 5))])
def test_whiten_against_float64_zca(count: int, shape: tuple[int, int, int]) -> None:
    pixels = photographs(count, shape)
    mean, matrix = zca64(pixels)
    found = Whiten.fit(pixels)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-5)
    assert torch.equal(found.matrix, found.matrix.T)
    other = photographs(20, shape, seed=1)
    expected = (other.numpy().reshape(20, -1) / 255.0 - mean) @ matrix
    np.testing.assert_allclose(found.apply(other).flatten(1), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["standard", "zca"])
@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(2, 40),
    side=st.integers(1, 6),
    channels=st.sampled_from([1, 3]),
)
def test_inverses(name: str, seed: int, count: int, side: int, channels: int) -> None:
    pixels = photographs(count, (channels, side, side), seed)
    found = preprocess.PREPROCESS[name].fit(pixels)
    images = found.apply(pixels)
    torch.testing.assert_close(found.unapply(images), pixels / 255, atol=1e-4, rtol=0)
    assert torch.equal(found.quantise(images), pixels)
    stretched = found.invert(images * 100)
    assert stretched.min() >= 0
    assert stretched.max() <= 1


def test_unapply_does_not_clamp(fitted: Preprocess) -> None:
    images = fitted.apply(photographs(11, (3, 8, 8), seed=2))
    origin, far = fitted.unapply(torch.zeros_like(images)), fitted.unapply(images * 100)
    torch.testing.assert_close(
        far - origin, 100 * (fitted.unapply(images) - origin), atol=1e-2, rtol=1e-3
    )
    assert far.abs().max() > 1


def test_blocks_change_nothing(fitted: Preprocess, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photographs(11, (3, 8, 8), seed=2)
    whole, refitted = fitted.apply(pixels), Standardize.fit(pixels)
    monkeypatch.setattr(preprocess, "_BLOCK_VALUES", 3 * 192)
    torch.testing.assert_close(fitted.apply(pixels), whole, atol=1e-5, rtol=0)
    assert Standardize.fit(pixels).fingerprint == refitted.fingerprint
    assert fitted.apply(pixels[:0]).shape == (0, 3, 8, 8)


def test_saved_and_restored(fitted: Preprocess) -> None:
    pixels = photographs(5, (3, 8, 8), seed=3)
    back = from_state(fitted.name, {key: value.clone() for key, value in fitted.state().items()})
    assert type(back) is type(fitted)
    assert back.fingerprint == fitted.fingerprint == fitted.to("cpu").fingerprint
    assert torch.equal(back.apply(pixels), fitted.apply(pixels))
    assert fitted.to("meta").apply(pixels).device.type == "meta"


def test_fingerprints_tell_transforms_apart() -> None:
    first, second = photographs(60, (3, 8, 8)), photographs(60, (3, 8, 8), seed=1)
    kinds = (Standardize, Whiten)
    assert len({kind.fit(pixels).fingerprint for kind in kinds for pixels in (first, second)}) == 4
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    assert Standardize(mean, std).fingerprint != Standardize(std, mean).fingerprint


def dataset(name: str, pixels: torch.Tensor) -> Dataset:
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("one",))
    return Dataset(name, images, images)


def test_a_transform_is_fitted_once_a_dataset() -> None:
    real = dataset("mine", photographs(30, (3, 4, 4)))
    assert make_preprocess("zca", real) is make_preprocess("zca", real)
    other = dataset("mine", photographs(30, (3, 4, 4), seed=1))
    assert make_preprocess("zca", other).fingerprint != make_preprocess("zca", real).fingerprint


def test_make_preprocess_uses_published_constants_and_fits_otherwise() -> None:
    pixels = photographs(30, (3, 4, 4))
    cifar = make_preprocess("standard", dataset("cifar10", pixels))
    assert isinstance(cifar, Standardize)
    assert cifar.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    assert cifar.std.tolist() == pytest.approx([0.2023, 0.1994, 0.2010])
    imagenet = make_preprocess("standard", dataset("imagenette", pixels))
    assert imagenet.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert (
        make_preprocess("standard", dataset("mine", pixels)).fingerprint
        == Standardize.fit(pixels).fingerprint
    )
    assert (
        make_preprocess("zca", dataset("cifar10", pixels)).fingerprint
        == Whiten.fit(pixels).fingerprint
    )


def test_only_fitting_zca_needs_kornia() -> None:
    code = """
import sys
sys.modules["kornia"] = None
import torch
from condense.data.preprocess import from_state
whiten = from_state("zca", {"mean": torch.zeros(1, 2, 2), "matrix": torch.eye(4)})
pixels = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
assert torch.equal(whiten.quantise(whiten.apply(pixels)), pixels)
assert "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_input_is_named_in_one_line(fitted: Preprocess) -> None:
    pixels = photographs(5, (3, 8, 8))
    state = fitted.state()
    cases = [
        (lambda: fitted.apply(pixels.float()), r"takes uint8 .* with `.to\(torch.uint8\)`"),
        (lambda: fitted.apply(pixels / 255), r"`\(255 \* images\).round\(\).to\(torch.uint8\)`"),
        (lambda: fitted.apply(pixels / 255 - 0.5), "before they are normalised"),
        (lambda: fitted.apply(pixels[:, :1]), "do not fit"),
        (lambda: fitted.apply(pixels[0]), "do not fit"),
        (lambda: fitted.invert(torch.zeros(2, 5, 8, 8)), "do not fit"),
        (lambda: type(fitted).fit(pixels[:0]), "N >= "),
        (lambda: type(fitted).fit(pixels.float()), "uint8"),
        (lambda: from_state(fitted.name, {"mean": state["mean"]}), "damaged"),
        (
            lambda: from_state(
                fitted.name,
                {key: value[:2] for key, value in state.items()} | {"mean": state["mean"]},
            ),
            "needs a mean",
        ),
        (lambda: from_state("zcaa", state), "did you mean `zca`"),
        (
            lambda: make_preprocess("standart", dataset("cifar10", pixels)),
            "did you mean `standard`",
        ),
    ]
    for call, words in cases:
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_zca_refuses_what_cannot_be_fitted() -> None:
    with pytest.raises(UserError, match="resolution"):
        Whiten.fit(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    with pytest.raises(UserError, match="N >= 2"):
        Whiten.fit(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="do not fit"):
        Whiten.fit(photographs(5, (3, 4, 4))).apply(photographs(5, (3, 4, 5)))
