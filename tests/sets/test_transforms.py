"""A large transform is kept once beside its sets, and a set never comes back under another."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from condense import CondensedSet, UserError, condense, recipe_for, resume
from condense.data.images import Dataset, Images
from condense.data.preprocess import Whiten
from condense.sets.transforms import find

CLASSES = ("zero", "one")
SHAPE = (3, 16, 16)


def whitened(seed: int = 0) -> Whiten:
    """A transform of 2.4 MB."""
    size = 3 * 16 * 16
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) / 100
    return Whiten(mean=torch.zeros(SHAPE), matrix=torch.eye(size) + noise + noise.T)


def some_set(transform: Whiten, seed: int) -> CondensedSet:
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return CondensedSet(images, torch.tensor([0, 1]), CLASSES, transform, {"seed": seed})


def size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_the_sets_of_a_folder_share_the_file_of_a_transform(tmp_path: Path, storage: str) -> None:
    transform = whitened()
    sets = {name: some_set(transform, seed) for seed, name in enumerate(("a", "b"))}
    for name, condensed in sets.items():
        file = condensed.save(tmp_path / f"{name}.safetensors", storage, alone=False)
        assert size(file) < 20_000
        alone = condensed.save(tmp_path / "alone" / file.name, storage)
        assert size(alone) > 2_000_000
        back, whole = CondensedSet.load(file), CondensedSet.load(alone)
        assert back.fingerprint == whole.fingerprint
        assert torch.equal(back.preprocess.matrix, transform.matrix)  # type: ignore[attr-defined]
    assert len(list(tmp_path.glob("zca-*"))) == 1
    assert not list((tmp_path / "alone").glob("zca-*"))


def test_without_its_transform_a_set_says_which_file_is_missing(tmp_path: Path) -> None:
    file = some_set(whitened(), 0).save(tmp_path / "here" / "a.safetensors", alone=False)
    (tmp_path / "there").mkdir()
    moved = shutil.copy(file, tmp_path / "there")
    with pytest.raises(UserError, match=r"there/zca-.*safetensors is missing: .* copy that, too"):
        CondensedSet.load(moved)
    (beside,) = file.parent.glob("zca-*")
    shutil.copy(beside, tmp_path / "there")
    assert CondensedSet.load(moved).fingerprint == CondensedSet.load(file).fingerprint


def test_another_or_a_damaged_transform_is_refused(tmp_path: Path) -> None:
    first, second = (
        some_set(whitened(seed), 0).save(tmp_path / str(seed) / "a.safetensors", alone=False)
        for seed in (1, 2)
    )
    (mine,), (other,) = (file.parent.glob("zca-*") for file in (first, second))
    shutil.copy(other, mine)
    with pytest.raises(UserError, match="holds another transform"):
        CondensedSet.load(first)
    content = bytearray(other.read_bytes())
    content[len(content) // 2] ^= 1
    mine.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        CondensedSet.load(first)


@pytest.mark.parametrize(
    ("kind", "fingerprint"), [("zca", "../0123456789abcdef"), ("z" * 5000, "0" * 16), ("zca", {})]
)
def test_what_names_no_transform_is_refused(tmp_path: Path, kind: str, fingerprint: Any) -> None:
    with pytest.raises(UserError, match="is no transform"):
        find(tmp_path, kind, fingerprint)


def test_a_run_keeps_its_transform_once_and_goes_on(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, *SHAPE), dtype=torch.uint8, generator=draw)
    images = Images(pixels, torch.arange(40) % 2, CLASSES)
    dataset = Dataset("noise", images, images)
    changes = {"preprocess": "zca", "network": "convnet-d1-w8", "real_batch": 4, "steps": 2}
    recipe = recipe_for("dm", "noise", SHAPE, 1).override(changes)
    condensed = condense(dataset, ipc=1, recipe=recipe, out=tmp_path, device="cpu", quiet=True)
    for name in ("start.safetensors", "set.safetensors"):
        assert size(tmp_path / name) < 20_000
    assert len(list(tmp_path.glob("zca-*"))) == 1
    (tmp_path / "set.safetensors").unlink()  # as if it had been killed before the last file
    again = resume(tmp_path, dataset=dataset, quiet=True)
    assert again.fingerprint == condensed.fingerprint
