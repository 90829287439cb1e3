"""Mosaics against a loop over pixels, and through everything that stores, trains on or writes a
set.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condense import CondensedSet, Protocol, UserError, condense, evaluate, load_dataset, recipe_for
from condense.data.preprocess import make_preprocess
from condense.files import load_tensors
from condense.methods.selection import select, start
from condense.sets.exchange import export_set, import_set
from condense.sets.mosaics import decode, encode


@pytest.fixture(scope="module")
def mosaics() -> CondensedSet:
    """Two mosaics of four digits a class."""
    digits = load_dataset("digits")
    return start(
        "random", digits, 2, formation=2, preprocess=make_preprocess("standard", digits), seed=0
    )


def enlarged(part: Tensor, factor: int) -> Tensor:
    """A part [ch, h, w] enlarged bilinearly, pixel by pixel.

    Pixel centres in proportion, the rim repeated.
    """
    channels, height, width = part.shape
    large = torch.empty(channels, height * factor, width * factor, dtype=part.dtype)
    for i in range(height * factor):
        for j in range(width * factor):
            y = min(max((i + 0.5) / factor - 0.5, 0), height - 1)
            x = min(max((j + 0.5) / factor - 0.5, 0), width - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = y - top, x - left
            large[:, i, j] = (1 - down) * (
                (1 - across) * part[:, top, left] + across * part[:, top, right]
            )
            large[:, i, j] += down * (
                (1 - across) * part[:, bottom, left] + across * part[:, bottom, right]
            )
    return large


@given(formation=st.integers(1, 3), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_decoding_is_its_definition(formation: int, seed: int) -> None:
    images = torch.randn(
        2, 3, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    height, width = 6 // formation, 12 // formation
    expected = [
        enlarged(image[:, r * height : (r + 1) * height, c * width : (c + 1) * width], formation)
        for image in images
        for r in range(formation)
        for c in range(formation)
    ]
    torch.testing.assert_close(decode(images, formation), torch.stack(expected))


def test_encoding_puts_averages_where_decoding_looks_for_them() -> None:
    images = torch.randn(
        8, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    mosaics = encode(images, 2)
    assert mosaics.shape == (2, 3, 6, 6)
    for n, image in enumerate(images):
        for i in range(3):
            for j in range(3):
                place = mosaics[n // 4, :, n % 4 // 2 * 3 + i, n % 2 * 3 + j]
                torch.testing.assert_close(
                    place, image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2))
                )
    flat = torch.arange(8.0)[:, None, None, None].expand(8, 3, 6, 6)
    assert torch.equal(decode(encode(flat, 2), 2), flat)


def test_gradient_against_finite_differences() -> None:
    images = torch.randn(
        1,
        2,
        4,
        4,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(lambda x: decode(x, 2), images)


def test_a_start_is_made_of_four_selected_images_each(mosaics: CondensedSet) -> None:
    chosen = select("random", load_dataset("digits"), 8, preprocess=mosaics.preprocess, seed=0)
    assert torch.equal(mosaics.images, encode(chosen.images, 2))
    assert torch.equal(mosaics.decoded().labels, chosen.labels)
    assert mosaics.ipc == 2


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_a_set_keeps_its_formation(mosaics: CondensedSet, tmp_path: Path, storage: str) -> None:
    loaded = CondensedSet.load(mosaics.save(tmp_path, storage=storage))
    assert loaded.formation == 2
    assert loaded.images.shape == (20, 1, 8, 8)
    assert loaded.decoded().images.shape == (80, 1, 8, 8)
    assert len(loaded.as_dataset()) == 80
    if storage == "float32":
        assert (
            loaded.fingerprint
            == mosaics.fingerprint
            != dataclasses.replace(mosaics, formation=1).fingerprint
        )


def test_only_a_file_of_mosaics_is_beyond_an_older_reader(
    mosaics: CondensedSet, tmp_path: Path
) -> None:
    plain = dataclasses.replace(mosaics, formation=1)
    assert load_tensors(plain.save(tmp_path / "plain"))[1].keys() == {
        "format",
        "classes",
        "preprocess",
        "provenance",
        "storage",
    }
    assert [load_tensors(one.save(tmp_path))[1]["format"] for one in (plain, mosaics)] == [1, 2]


def test_sets_of_other_formations_are_not_merged(mosaics: CondensedSet) -> None:
    assert mosaics.merge(mosaics).formation == 2
    with pytest.raises(UserError, match="different formations: 2 and 1"):
        mosaics.merge(dataclasses.replace(mosaics, formation=1))


def test_an_exported_set_is_decoded(mosaics: CondensedSet, tmp_path: Path) -> None:
    export_set(mosaics, tmp_path / "set.pt", "pt")
    imported = import_set(tmp_path / "set.pt", mosaics.classes, mosaics.preprocess)
    assert torch.equal(imported.images, mosaics.decoded().images)
    assert torch.equal(imported.labels, mosaics.decoded().labels)


def test_images_that_do_not_divide_are_refused(mosaics: CondensedSet) -> None:
    with pytest.raises(UserError, match="`formation` is 3: images of 8 x 8 px"):
        dataclasses.replace(mosaics, formation=3)
    with pytest.raises(UserError, match="`formation` is 0"):
        recipe_for("paper", "digits", (1, 8, 8), 2).override({"formation": 0})


@pytest.mark.parametrize("method", ["datadam", "dm"])
def test_condensed_evaluated_on_what_it_decodes_to(method: str) -> None:
    digits = load_dataset("digits")
    changes = {
        "formation": 2,
        "network": "convnet-d2-w8",
        "real_batch": 8,
        "steps": 3,
        "loss_scale": 100.0,
    }
    recipe = recipe_for("paper", "digits", digits.shape, 2, method=method).override(changes)
    condensed = condense(digits, ipc=2, recipe=recipe, quiet=True)
    begun = condense(digits, ipc=2, recipe=recipe.override({"steps": 0}), quiet=True)
    assert condensed.images.shape == (20, 1, 8, 8)
    assert not torch.equal(condensed.images, begun.images)
    how = {
        "networks": ["convnet-d2-w8"],
        "repeats": 1,
        "protocol": Protocol(epochs=5, augment="none"),
    }
    assert evaluate(condensed, digits, **how) == evaluate(condensed.decoded(), digits, **how)
