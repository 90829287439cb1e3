"""Datasets.

What is read, how it is cut, split and cached, and what a user is told when it cannot be.
"""

import hashlib
import os
import re
import shutil
import struct
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from condense.data import arrays, folders
from condense.data import decoded as cache
from condense.data.catalogue import DATASETS, load_dataset, verify
from condense.data.images import Dataset, Images, second_of_five
from condense.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_image(path: Path, *shape: int) -> np.ndarray:
    """A lossless picture of noise, [H, W] or [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(*shape)
    Image.fromarray(pixels).save(path)
    return pixels


def write_npz(path: Path, **changes) -> str:
    content = {
        "train_images": noise(12, 6, 6, 3),
        "train_labels": np.repeat(np.arange(3), 4),
        "test_images": noise(3, 6, 6, 3),
        "test_labels": np.arange(3),
    }
    np.savez(
        path, **{key: value for key, value in (content | changes).items() if value is not None}
    )
    return str(path)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("xdg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "condensekit"


def caches(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.u8"))


# Images and Dataset


def test_images_know_their_classes():
    pixels = torch.from_numpy(noise(7, 3, 4, 4))
    images = Images(pixels, torch.tensor([2, 0, 2, 1, 2, 0, 2]), ("a", "b", "c", "d"))
    assert len(images) == 7
    assert images.shape == (3, 4, 4)
    assert images.counts().tolist() == [2, 1, 4, 0]
    assert images.of_class(2).tolist() == [0, 2, 4, 6]
    some = images.subset(torch.tensor([3, 0]))
    assert some.pixels.equal(pixels[[3, 0]])
    assert some.labels.tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data(), st.integers(0, 9))
def test_held_out_images_are_a_stratified_part(counts, data, seed):
    most = sum(counts) - len(counts)
    labels = torch.from_numpy(
        np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    )
    numbered = torch.arange(len(labels), dtype=torch.uint8).reshape(
        -1, 1, 1, 1
    )  # at most 256 of them differ
    images = Images(numbered, labels, tuple(map(str, range(len(counts)))))
    dataset = Dataset("some", images, images)
    if not most:
        with pytest.raises(UserError, match="keeps one"):
            dataset.hold_out(1, seed)
        return
    count = data.draw(st.integers(1, most))
    split = dataset.hold_out(count, seed)
    assert len(split.test) == count

    def pairs(part):
        return Counter(zip(part.pixels.flatten().tolist(), part.labels.tolist(), strict=True))

    assert pairs(split.train) + pairs(split.test) == pairs(images)
    held = split.test.counts().tolist()
    assert all(h < c for h, c in zip(held, counts, strict=True))
    if all(
        count * c / sum(counts) <= c - 1 for c in counts
    ):  # no class runs out: every share is its exact one, rounded
        assert all(abs(h - count * c / sum(counts)) < 1 for h, c in zip(held, counts, strict=True))
    again, other = dataset.hold_out(count, seed), dataset.hold_out(count, seed + 1)
    assert split.test.pixels.equal(again.test.pixels)
    assert len(other.test) == count


def test_held_out_images_depend_on_the_seed():
    dataset = load_dataset("digits")
    first, second = dataset.hold_out(100, 0), dataset.hold_out(100, 1)
    assert not first.test.pixels.equal(second.test.pixels)
    assert first.test.counts().equal(second.test.counts())
    assert first.fingerprint != dataset.fingerprint


@pytest.mark.parametrize("count", [-1, 0, 1435, 1426])
def test_more_than_there_is_cannot_be_held_out(count):
    with pytest.raises(UserError, match="choose 1 to 1425"):
        load_dataset("digits").hold_out(count, 0)


def test_fingerprint_is_of_the_training_content(tmp_path):
    base = load_dataset(write_npz(tmp_path / "a.npz"))
    pixels, labels = base.train.pixels, base.train.labels

    def fingerprint(pixels, labels):
        return Dataset("x", Images(pixels, labels, base.classes), base.test).fingerprint

    assert fingerprint(pixels.clone(), labels.clone()) == base.fingerprint
    assert len(base.fingerprint) == 16
    int(base.fingerprint, 16)
    changed = pixels.clone()
    changed[5, 1, 2, 3] += 1
    assert fingerprint(changed, labels) != base.fingerprint
    assert fingerprint(pixels, labels.flip(0)) != base.fingerprint
    assert fingerprint(pixels.reshape(12, 3, 4, 9), labels) != base.fingerprint


# By name


def test_digits_are_scikit_learns_under_the_documented_split():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = load_dataset("digits")
    assert dataset.shape == (1, 8, 8)
    assert dataset.train.pixels.dtype == torch.uint8
    assert dataset.train.pixels.max() == 255
    seen, train, test = Counter(), [], []
    for image, label in zip(bunch.images, bunch.target, strict=True):  # the rule, image by image
        (test if seen[label] % 5 == 1 else train).append((image, label))
        seen[label] += 1
    for images, expected in ((dataset.train, train), (dataset.test, test)):
        assert images.labels.tolist() == [label for _, label in expected]
        np.testing.assert_allclose(
            images.pixels[:, 0].numpy() * (16 / 255),
            np.stack([i for i, _ in expected]),
            atol=0.5 * 16 / 255,
        )
    assert len(dataset.train) == 1435


def test_resolution_resizes_arrays_as_torchvision_does(tmp_path):
    content = noise(12, 20, 31, 3)
    dataset = load_dataset(write_npz(tmp_path / "a.npz", train_images=content), resolution=9)
    reference = T.Compose([T.ToTensor(), T.Resize(9, antialias=True), T.CenterCrop(9)])
    expected = torch.stack([reference(image) for image in content]) * 255
    assert (dataset.train.pixels - expected).abs().max() <= 0.51  # rounded
    assert dataset.test.shape == (3, 9, 9)
    with pytest.raises(UserError, match="resolution 0"):
        load_dataset("digits", resolution=0)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean `cifar10`"):
        load_dataset("cifar1O")


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "svhn", "cifar10", "cifar100"])
def test_missing_files_are_named_with_their_md5(name, tmp_path):
    path, md5 = arrays.official_files(name, tmp_path)[0]
    with pytest.raises(UserError) as error:
        load_dataset(name, tmp_path)
    assert str(path) in str(error.value)
    assert md5 in str(error.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"damage")
    with pytest.raises(UserError, match=f"found {hashlib.md5(b'damage').hexdigest()}") as error:
        verify(name, tmp_path)
    assert md5 in str(error.value)


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(
        "torchvision.datasets.CIFAR10",
        type("CIFAR10", (arrays._torchvision_class("cifar10"),), {"__init__": refuse}),
    )
    with pytest.raises(UserError, match=r"cannot download `cifar10`.*no route"):
        load_dataset("cifar10", tmp_path, download=True)


def write_idx(path: Path, content: np.ndarray) -> str:
    """The file format of MNIST; returns the MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">HBB{content.ndim}I", 0, 8, content.ndim, *content.shape) + content.tobytes()
    )
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_mnist_is_read_as_one_channel(tmp_path, monkeypatch):
    content = {
        "train-images-idx3-ubyte": noise(20, 28, 28),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": noise(10, 28, 28),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }
    monkeypatch.setitem(
        arrays._IDX_MD5,
        "mnist",
        {
            file: write_idx(tmp_path / "MNIST" / "raw" / file, array)
            for file, array in content.items()
        },
    )
    dataset = load_dataset("mnist", tmp_path)
    assert np.array_equal(dataset.train.pixels[:, 0].numpy(), content["train-images-idx3-ubyte"])
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.classes == tuple("0123456789")
    assert len(verify("mnist", tmp_path)) == 6


def test_svhn_calls_the_label_10_zero(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    content = noise(32, 32, 3, 20)
    files = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": content, "y": (np.arange(20, dtype=np.uint8) % 10 + 1)[:, None]})
        files[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", files)
    dataset = load_dataset("svhn", tmp_path)
    assert dataset.train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(dataset.train.pixels[7].numpy(), content[..., 7].transpose(2, 0, 1))
    assert dataset.classes == tuple("0123456789")


@pytest.mark.slow
def test_real_cifar10(cifar10_dir, tmp_path):
    import pickle

    dataset = load_dataset("cifar10", cifar10_dir)
    assert dataset.shape == (3, 32, 32)
    assert dataset.train.counts().tolist() == [5000] * 10
    assert dataset.test.counts().tolist() == [1000] * 10
    assert dataset.classes[0] == "airplane"
    raw = pickle.loads(
        (cifar10_dir / "cifar-10-batches-py" / "test_batch").read_bytes(), encoding="bytes"
    )
    assert np.array_equal(dataset.test.pixels.numpy().reshape(10000, -1), raw[b"data"])
    assert dataset.test.labels.tolist() == raw[b"labels"]
    assert dataset.hold_out(5000, 0).test.counts().tolist() == [500] * 10
    assert sum("as expected" in line for line in verify("cifar10", cifar10_dir)) == 7


@pytest.mark.slow
def test_missing_files_are_downloaded_on_request(cifar10_dir, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = CIFAR10.base_folder
    monkeypatch.setattr(
        CIFAR10,
        "download",
        lambda self: shutil.copytree(cifar10_dir / folder, tmp_path / folder, dirs_exist_ok=True),
    )
    assert len(load_dataset("cifar10", tmp_path, download=True).train) == 50000
    (tmp_path / folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3: missing"):
        load_dataset("cifar10", tmp_path)


# Arrays


def test_npz_convention(tmp_path):
    grey = noise(12, 6, 6)
    path = write_npz(
        tmp_path / "a.npz",
        train_images=grey,
        train_labels=np.repeat([7, -2, 30], 4)[:, None],
        test_images=noise(3, 6, 6),
        test_labels=np.array([[30], [7], [-2]], dtype=np.int16),
    )
    dataset = load_dataset(path)
    assert dataset.name == path
    assert dataset.shape == (1, 6, 6)
    assert np.array_equal(dataset.train.pixels[:, 0].numpy(), grey)
    assert dataset.classes == ("-2", "7", "30")
    assert dataset.train.labels.tolist() == [1] * 4 + [0] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [2, 1, 0]


def test_npz_names_channels_and_unbalanced_classes(tmp_path):
    colour, grey = noise(12, 6, 6, 3), noise(3, 6, 6)
    labels = np.array([0] * 10 + [1, 2], dtype=np.uint8)
    path = write_npz(
        tmp_path / "a.npz",
        train_images=colour,
        train_labels=labels,
        test_images=grey,
        class_names=np.array(["cat", "dog", "owl"]),
    )
    dataset = load_dataset(path)
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.counts().tolist() == [10, 1, 1]
    assert np.array_equal(dataset.train.pixels.numpy(), colour.transpose(0, 3, 1, 2))
    assert np.array_equal(dataset.test.pixels.numpy(), np.repeat(grey[:, None], 3, axis=1))


def test_non_square_arrays_are_cut_at_the_centre(tmp_path):
    wide, tall = noise(12, 6, 11), noise(3, 9, 6)
    dataset = load_dataset(write_npz(tmp_path / "a.npz", train_images=wide, test_images=tall))
    assert dataset.shape == (1, 6, 6)
    assert np.array_equal(dataset.train.pixels[:, 0].numpy(), wide[:, :, 2:8])
    assert np.array_equal(
        dataset.test.pixels[:, 0].numpy(), tall[:, 2:8]
    )  # torchvision rounds 1.5 to the even 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "no array `test_labels`"),
        ({"train_images": noise(12, 6, 6, 3) / 255.0}, r"float64 \[12, 6, 6, 3\]; expected uint8"),
        ({"train_images": noise(12, 6, 6, 4)}, "expected uint8"),
        ({"train_images": noise(12, 6)}, "expected uint8"),
        ({"train_labels": np.arange(11)}, r"int64 \[11\]; expected one integer an image, \[12\]"),
        ({"train_labels": np.ones((12, 2), dtype=int)}, "one integer an image"),
        ({"train_labels": np.ones(12)}, "one integer an image"),
        (
            {"test_labels": np.array([0, 1, 5])},
            "label 5 is in `test_labels` but not in `train_labels`",
        ),
        ({"class_names": np.array(["a", "b", "c", "d"])}, "`class_names` has shape .4."),
        ({"class_names": np.array(["a", "b", "c"], dtype=object)}, "plain arrays"),
        ({"class_names": np.array([b"a", b"b", b"\xff"])}, "bytes that are not UTF-8"),
        ({"class_names": np.array([1.0, 2.0, np.nan])}, "is float64; give text, or whole numbers"),
        ({"train_labels": np.arange(12, dtype=np.uint64) + np.uint64(2**63)}, "is too large"),
        (
            {"test_images": noise(0, 6, 6, 3), "test_labels": np.zeros(0, dtype=int)},
            "at least one image",
        ),
        ({"test_images": noise(3, 5, 5, 3)}, "give a resolution"),
    ],
)
def test_bad_arrays_are_named(tmp_path, changes, message):
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_npz_is_refused_or_intact(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    write_npz(path)
    whole = load_dataset(str(path))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load_dataset(str(path)).train
    except UserError:
        found = whole.train
    assert found.pixels.equal(whole.train.pixels)  # else the damage hit a field that nobody reads
    assert found.labels.equal(whole.train.labels)


def test_an_npz_that_holds_an_array_twice_is_refused(tmp_path):
    path = Path(write_npz(tmp_path / "a.npz"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images", archive.read("test_images.npy"))
    with pytest.raises(UserError, match="it holds something twice"):
        load_dataset(str(path))


def test_a_long_strip_is_cut_before_it_is_resized():
    strip = torch.zeros(1, 1, 1, 3_000_000, dtype=torch.uint8)  # 196 GB as floats of 128 px
    strip[..., 1_499_999:1_500_001] = 7
    assert cache.square(strip, 128).unique().tolist() == [7]
    assert cache.square(Image.fromarray(strip[0, 0].numpy()), 128).getextrema() == (7, 7)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", noise(3, 3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as file:
        file.writestr("notes.txt", "hello")
    for name, message in {
        "a": "damaged or not an .npz",
        "b": "damaged or not an .npz",
        "c": "no array",
        "d": "does not exist",
    }.items():
        with pytest.raises(UserError, match=message):
            load_dataset(str(tmp_path / f"{name}.npz"))


# Folders


def class_folders(root: Path, counts: dict[str, int], *shape: int) -> dict[str, np.ndarray]:
    return {
        f"{name}/{i}.png": write_image(root / name / f"{i}.png", *(shape or (40, 32, 3)))
        for name, count in counts.items()
        for i in range(count)
    }


def test_a_folder_with_splits(tmp_path):
    train = class_folders(tmp_path / "train", {"b": 3, "a": 1}, 32, 47, 3)
    test = class_folders(tmp_path / "val", {"a": 2, "b": 1}, 40, 32, 3)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("a", "b")
    assert dataset.shape == (3, 32, 32)
    assert dataset.train.labels.tolist() == [0, 1, 1, 1]
    expected = [
        train[file][:, 8:40] for file in ("a/0.png", "b/0.png", "b/1.png", "b/2.png")
    ]  # (47 - 32) / 2 = 7.5
    assert np.array_equal(dataset.train.pixels.numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    expected = [test[file][4:36] for file in ("a/0.png", "a/1.png", "b/0.png")]
    assert np.array_equal(dataset.test.pixels.numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    dataset.train.pixels[0] = 0  # a private mapping: writing is allowed and leaves the cache alone
    assert load_dataset(f"folder:{tmp_path}").train.pixels[0].any()


def test_a_folder_without_splits_is_split_by_rule(tmp_path):
    content = class_folders(tmp_path, {"a": 7, "b": 2, "c": 1}, 32, 32, 3)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.train.counts().tolist() == [5, 1, 1]
    assert dataset.test.counts().tolist() == [2, 1, 0]
    expected = np.stack([content[file] for file in ("a/1.png", "a/6.png", "b/1.png")])
    assert np.array_equal(dataset.test.pixels.numpy(), expected.transpose(0, 3, 1, 2))
    assert second_of_five(torch.tensor([4, 4, 1, 4, 1])).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("resolution", [8, 50])
def test_folder_images_are_resized_as_torchvision_does(tmp_path, resolution):
    class_folders(tmp_path, {"a": 3, "b": 3}, 33, 20, 3)
    dataset = load_dataset(f"folder:{tmp_path}", resolution=resolution)
    reference = T.Compose([T.Resize(resolution), T.CenterCrop(resolution), T.PILToTensor()])
    for images, indices in ((dataset.train, (0, 2)), (dataset.test, (1,))):
        files = [tmp_path / name / f"{i}.png" for name in "ab" for i in indices]
        assert images.pixels.equal(torch.stack([reference(Image.open(file)) for file in files]))


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path):
    content = class_folders(tmp_path, {"a": 2, "b": 2}, 32, 32)
    deep = RNG.integers(0, 65536, (32, 32), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a" / "2.png")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.shape == (1, 32, 32)
    assert np.array_equal(dataset.train.pixels[0, 0].numpy(), content["a/0.png"])
    assert np.array_equal(dataset.train.pixels[1, 0].numpy(), deep // 256)
    write_image(tmp_path / "b" / "2.png", 32, 32, 3)
    mixed = load_dataset(f"folder:{tmp_path}")
    assert mixed.shape == (3, 32, 32)
    assert np.array_equal(
        mixed.train.pixels[0].numpy(), np.repeat(content["a/0.png"][None], 3, axis=0)
    )


def test_folders_and_arrays_of_the_same_images_have_one_fingerprint(tmp_path):
    content = class_folders(tmp_path / "train", {"a": 2, "b": 2}, 16, 16, 3)
    class_folders(tmp_path / "test", {"a": 1, "b": 1}, 16, 16, 3)
    path = write_npz(
        tmp_path / "a.npz", train_images=np.stack([*content.values()]),
        train_labels=np.array([0, 0, 1, 1]),
        test_images=noise(1, 16, 16, 3), test_labels=np.array([0]),
    )  # fmt: skip
    assert (
        load_dataset(f"folder:{tmp_path}", resolution=16).fingerprint
        == load_dataset(path).fingerprint
    )


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"did you mean `folder:.*`[?]"):
        load_dataset(str(tmp_path))
    (tmp_path / "one" / "a").mkdir(parents=True)
    write_image(tmp_path / "one" / "b" / "0.png", 8, 8)
    with pytest.raises(UserError, match=r"one/a: no images of class `a`"):
        load_dataset(f"folder:{tmp_path / 'one'}")
    write_image(tmp_path / "one" / "a" / "0.png", 8, 8)
    with pytest.raises(UserError, match="none for testing"):
        load_dataset(f"folder:{tmp_path / 'one'}")
    class_folders(tmp_path / "two" / "train", {"a": 1, "b": 1})
    class_folders(tmp_path / "two" / "test", {"a": 1, "b": 1, "c": 1})
    with pytest.raises(UserError, match=r"two/test/c: class `c` has no folder"):
        load_dataset(f"folder:{tmp_path / 'two'}")


def test_one_class_is_an_error_that_shows_what_was_found(tmp_path):
    class_folders(tmp_path / "above" / "animals", {"cat": 2, "dog": 2, "eel": 2, "fox": 2})
    message = (
        r"above: the only class folder is `animals`, which holds the folders cat, dog, eel, .*: "
        r"is folder:\S*above/animals meant\?"
    )
    with pytest.raises(UserError, match=message):
        load_dataset(f"folder:{tmp_path / 'above'}")
    assert len(load_dataset(f"folder:{tmp_path / 'above' / 'animals'}").classes) == 4
    class_folders(tmp_path / "split" / "train", {"cat": 2})
    with pytest.raises(UserError, match=r"train: the only class folder is `cat`, and a dataset"):
        load_dataset(f"folder:{tmp_path / 'split'}")
    alone = write_npz(tmp_path / "a.npz", train_labels=np.full(12, 5), test_labels=np.full(3, 5))
    with pytest.raises(UserError, match="all labels are 5, which is one class"):
        load_dataset(alone)


def photo(path: Path, upright: np.ndarray, orientation: int) -> None:
    """A picture as a camera stores it that was held in this orientation."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.getexif()[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=image.getexif())


def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path, capsys):
    upright = noise(32, 32, 3)
    for orientation in range(1, 9):
        for name in ("a", "b"):
            photo(tmp_path / name / f"{orientation}.png", upright, orientation)
    train = load_dataset(f"folder:{tmp_path}").train
    assert len(train) == 12
    for pixels in train.pixels:
        assert np.array_equal(pixels.numpy(), upright.transpose(2, 0, 1))
    assert "turned 14 of 16 pictures upright" in capsys.readouterr().err


def test_a_portrait_photo_of_a_camera_is_cut_as_it_is_seen(tmp_path):
    """A JPEG of 40 x 60 whose sensor stored 60 x 40: the cut is of the portrait's middle."""
    seen = np.zeros((60, 40, 3), np.uint8)
    seen[:10], seen[50:] = 255, 255  # what a cut of the middle must leave out
    for name in ("a", "b"):
        for orientation in (6, 8):
            photo(tmp_path / name / f"{orientation}.jpg", seen, orientation)
    assert load_dataset(f"folder:{tmp_path}", resolution=40).train.pixels.max() < 20


def test_damaged_metadata_leaves_a_picture_as_it_is(tmp_path, capsys):
    pixels = noise(32, 32, 3)
    for name in ("a", "b"):
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png", exif=b"Exif\0\0MM\0*no")
    train = load_dataset(f"folder:{tmp_path}").train
    assert np.array_equal(train.pixels[0].numpy(), pixels.transpose(2, 0, 1))
    assert "turned" not in capsys.readouterr().err


def test_transparent_pictures_are_put_on_white(tmp_path, capsys):
    """Magenta that nobody sees, in each of the ways to make it transparent."""
    hidden = Image.new("RGBA", (32, 32), (255, 0, 255, 0))
    palette = Image.new("P", (32, 32))
    palette.putpalette([255, 0, 255])
    black = Image.new("LA", (32, 32), (0, 0))
    whole = Image.new("RGBA", (32, 32), (255, 255, 255, 255))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number, image in enumerate((hidden, palette, black, whole)):
            image.save(
                tmp_path / name / f"{number}.png", **({"transparency": 0} if number == 1 else {})
            )
    dataset = load_dataset(f"folder:{tmp_path}")
    for images in (dataset.train, dataset.test):
        assert (images.pixels == 255).all()
    assert "put 6 of 8 pictures on white" in capsys.readouterr().err


def test_half_transparent_grey_is_half_white(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("LA", (32, 32), (55, 128)).save(tmp_path / name / f"{number}.png")
    train = load_dataset(f"folder:{tmp_path}").train
    assert train.shape == (1, 32, 32)
    assert (train.pixels.int() - (55 + 255) // 2).abs().max() <= 1


def test_floats_are_refused_and_dark_pictures_of_16_bits_noticed(tmp_path, capsys):
    class_folders(tmp_path, {"a": 2, "b": 2})
    ramp = np.linspace(0, 4095, 32 * 32, dtype=np.uint16).reshape(32, 32)
    for number in (3, 4):
        Image.fromarray(ramp).save(tmp_path / "a" / f"{number}.png")
    load_dataset(f"folder:{tmp_path}")
    warning = r"warning: 2 of 6 pictures have 16 bits, .* \(0 to 4095 of 65535\)"
    assert len(re.findall(warning, capsys.readouterr().err)) == 1
    Image.fromarray(ramp * 15).save(tmp_path / "b" / "3.png")  # of the whole range
    load_dataset(f"folder:{tmp_path}")
    assert "16 bits" not in capsys.readouterr().err
    Image.fromarray(np.float32(ramp / 4095)).save(tmp_path / "b" / "4.tiff")
    with pytest.raises(UserError, match=r"b/4\.tiff: its values are floats") as error:
        load_dataset(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("broken", "named", "more"), [(3, 3, ""), (12, 10, " and 2 more")])
def test_all_pictures_that_cannot_be_read_are_named(tmp_path, broken, named, more):
    class_folders(tmp_path, {"a": 2, "b": 15})
    for number in range(broken):
        (tmp_path / "b" / f"{number}.png").write_text("no image")
    with pytest.raises(
        UserError, match=f"{broken} of 17 pictures cannot be read: .*{more}$"
    ) as got:
        load_dataset(f"folder:{tmp_path}")
    assert len(re.findall(r"\d+\.png", str(got.value))) == named
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_an_undecodable_image_is_named_and_nothing_is_left(tmp_path, user_cache, damage):
    class_folders(tmp_path / "data", {"a": 3, "b": 3})
    victim = tmp_path / "data" / "b" / "2.png"
    victim.write_bytes(
        {"truncated": victim.read_bytes()[:-2000], "empty": b"", "text": b"hello, I am no image"}[
            damage
        ]
    )
    with pytest.raises(UserError, match="cannot be decoded") as error:
        load_dataset(f"folder:{tmp_path / 'data'}")
    assert str(victim) in str(error.value)
    assert [path.suffix for path in user_cache.iterdir()] == [".lock"]


# The cache


@pytest.fixture
def decodings(monkeypatch) -> list[str]:
    """Every file decoded from here on."""
    seen = []
    decode = cache._decode

    def spy(file, **arguments):
        seen.append(file)
        return decode(file, **arguments)

    monkeypatch.setattr(cache, "_decode", spy)
    return seen


def test_images_are_decoded_once(tmp_path, user_cache, decodings):
    class_folders(tmp_path / "data", {"a": 3, "b": 3})
    first = load_dataset(f"folder:{tmp_path / 'data'}")
    assert len(decodings) == 6
    second = load_dataset(f"folder:{tmp_path / 'data'}")
    assert len(decodings) == 6
    assert second.train.pixels.equal(first.train.pixels)
    assert second.test.labels.equal(first.test.labels)
    assert second.fingerprint == first.fingerprint
    load_dataset(f"folder:{tmp_path / 'data'}", resolution=16)
    assert len(decodings) == 12
    assert len(caches(user_cache)) == 2


def test_the_cache_lies_beside_the_data_where_that_is_writable(tmp_path, user_cache, decodings):
    class_folders(tmp_path / "images", {"a": 2, "b": 2})
    home = tmp_path / "data"
    home.mkdir()
    load_dataset(f"folder:{tmp_path / 'images'}", home)
    assert len(caches(home / ".condensekit-cache")) == 1
    assert not caches(user_cache)

    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / ".condensekit-cache").write_text("a file where the folder should be")
    load_dataset(f"folder:{tmp_path / 'images'}", blocked)
    assert len(caches(user_cache)) == 1
    assert len(decodings) == 8


@pytest.mark.parametrize("change", ["touched", "longer", "another file", "renamed"])
def test_a_changed_folder_is_decoded_again(tmp_path, user_cache, decodings, change):
    class_folders(tmp_path / "data", {"a": 3, "b": 3})
    load_dataset(f"folder:{tmp_path / 'data'}")
    decodings.clear()
    file = tmp_path / "data" / "a" / "0.png"
    if change == "touched":
        os.utime(file, ns=(1, 1))
    elif change == "longer":
        status = file.stat()
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "another file":
        write_image(tmp_path / "data" / "a" / "3.png", 32, 32, 3)
    else:
        file.rename(tmp_path / "data" / "a" / "9.png")
    load_dataset(f"folder:{tmp_path / 'data'}")
    assert len(decodings) >= 6
    assert len(caches(user_cache)) == 1  # the stale one is replaced


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_damaged_cache_is_rebuilt(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("cached")
    class_folders(root / "images", {"a": 2, "b": 2})
    (root / "home").mkdir()
    whole = load_dataset(f"folder:{root / 'images'}", root / "home")
    expected = whole.train.pixels.clone()
    (path,) = caches(root / "home")
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    damaged = {
        "truncated": good[:place],
        "flipped": good[:place]
        + bytes([good[place] ^ data.draw(st.integers(1, 255))])
        + good[place + 1 :],
        "longer": good + good[:place] + b"\0",
    }[data.draw(st.sampled_from(["truncated", "flipped", "longer"]))]
    path.unlink()  # the mapping of `whole` keeps the old file
    path.write_bytes(damaged)
    again = load_dataset(f"folder:{root / 'images'}", root / "home")
    assert again.train.pixels.equal(expected)
    assert again.fingerprint == whole.fingerprint
    assert path.read_bytes() == good


def test_damage_at_either_end_of_a_large_cache_is_seen(tmp_path, monkeypatch, decodings):
    monkeypatch.setattr(cache, "_BLOCK", 64)
    monkeypatch.setattr(cache, "_BLOCKS", 5)
    class_folders(tmp_path / "images", {"a": 3, "b": 3})
    (tmp_path / "home").mkdir()
    load = lambda: load_dataset(f"folder:{tmp_path / 'images'}", tmp_path / "home")  # noqa: E731
    load()
    for place in (0, 6 * 3 * 32 * 32 - 1):
        (path,) = caches(tmp_path / "home")
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        decodings.clear()
        load()
        assert len(decodings) == 6
    decodings.clear()
    load()
    assert not decodings


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, user_cache, monkeypatch):
    class_folders(tmp_path / "data", {"a": 3, "b": 3})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        load_dataset(f"folder:{tmp_path / 'data'}")
    assert [path.suffix for path in user_cache.iterdir()] == [".lock"]


def test_a_planted_link_is_not_followed_when_pictures_are_decoded(tmp_path, monkeypatch):
    class_folders(tmp_path / "images", {"a": 2, "b": 2})
    home, precious = tmp_path / "home", tmp_path / "precious.txt"
    (home / ".condensekit-cache").mkdir(parents=True)
    precious.write_text("mine")
    load = lambda: load_dataset(f"folder:{tmp_path / 'images'}", home)  # noqa: E731
    load()
    (made,) = caches(home)
    made.unlink()
    for name in (f"{made.stem}.partial", f"{made.name}.partial", f".condensekit-{'0' * 32}.part"):
        (made.parent / name).symlink_to(precious)
    load()
    assert precious.read_text() == "mine"
    made.unlink()
    made.symlink_to(precious)
    with pytest.raises(UserError, match="no regular file"):
        load()
    assert precious.read_text() == "mine"
    made.unlink()
    os.mkfifo(made)  # opening it would wait for a writer
    with pytest.raises(UserError, match="no regular file"):
        load()


def test_large_pictures_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    class_folders(tmp_path, {"a": 25, "b": 25}, 40, 40, 3)
    at_once, most = 0, 0
    upright = cache.upright

    def slow(image):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return upright(image)

    monkeypatch.setattr(cache, "upright", slow)
    monkeypatch.setattr(cache.os, "cpu_count", lambda: 4)
    load_dataset(f"folder:{tmp_path}", resolution=8)
    assert most > 1  # small ones are decoded by several threads
    monkeypatch.setattr(cache, "_LARGE", 1000)
    most = 0
    load_dataset(f"folder:{tmp_path}", resolution=9)
    assert most == 1


def test_a_pipe_among_the_pictures_does_not_block(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    os.mkfifo(tmp_path / "b" / "9.png")
    with pytest.raises(UserError, match=r"9\.png is no regular file"):
        load_dataset(f"folder:{tmp_path}")


# ImageNet and its kin


@pytest.mark.parametrize("name", folders.IMAGENET_SUBSETS)
def test_imagenet_subsets_take_their_ten_classes(name, tmp_path):
    wnids = [*folders.IMAGENET_SUBSETS[name], "n99999999"]
    pixels = {}
    for wnid in wnids:
        pixels[wnid] = write_image(
            tmp_path / "imagenet" / "train" / wnid / f"{wnid}_1.png", 16, 16, 3
        )
        write_image(tmp_path / "imagenet" / "val" / wnid / "ILSVRC2012_val_1.png", 16, 16)
    dataset = load_dataset(name, tmp_path, resolution=16)
    assert dataset.train.counts().tolist() == [1] * 10
    assert dataset.classes == tuple(folders.IMAGENET_SUBSETS[name].values())
    assert np.array_equal(
        dataset.train.pixels.numpy(),
        np.stack([pixels[w] for w in wnids[:10]]).transpose(0, 3, 1, 2),
    )
    assert load_dataset(name, tmp_path / "imagenet").shape == (3, 128, 128)
    (tmp_path / "imagenet" / "val" / wnids[4] / "ILSVRC2012_val_1.png").unlink()
    with pytest.raises(UserError, match=rf"val/{wnids[4]}: no images"):
        load_dataset(name, tmp_path)


def test_the_subsets_are_the_classes_they_are_called():
    """Against torchvision's names.

    The known positions of these classes among the 1,000 of ImageNet.
    """
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    positions = {
        "imagenette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
        "imagewoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
        "imagesquawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    }
    for subset, places in positions.items():
        assert [*folders.IMAGENET_SUBSETS[subset].values()] == [names[place] for place in places]
        wnids = [
            *folders.IMAGENET_SUBSETS[subset]
        ]  # ImageNet's positions are those of the sorted wnids
        assert sorted(wnids) == [wnid for _, wnid in sorted(zip(places, wnids, strict=True))]


def test_imagenet_1k_wants_a_thousand_classes(tmp_path):
    with pytest.raises(UserError, match="train: missing"):
        load_dataset("imagenet-1k", tmp_path)
    for c in range(999):
        write_image(tmp_path / "train" / f"n{c:08}" / "1.png", 2, 2, 3)
        write_image(tmp_path / "val" / f"n{c:08}" / "1.png", 2, 2, 3)
    with pytest.raises(UserError, match="expected 1000 class folders, found 999"):
        load_dataset("imagenet-1k", tmp_path)
    write_image(tmp_path / "train" / "n99999999" / "1.png", 2, 2, 3)
    write_image(tmp_path / "val" / "n99999999" / "1.png", 2, 2, 3)
    dataset = load_dataset("imagenet-1k", tmp_path, resolution=2)
    assert dataset.train.labels.tolist() == list(range(1000))
    assert dataset.classes[:2] == ("tench", "goldfish")


def write_tiny(root: Path) -> dict[str, np.ndarray]:
    root = root / "tiny-imagenet-200"
    pixels = {}
    for wnid in ("n02", "n01", "n03"):
        for i in range(2):
            file = f"{wnid}_{i}.JPEG"
            write_image(root / "train" / wnid / "images" / file, 64, 64, 3)
            pixels[file] = np.asarray(Image.open(root / "train" / wnid / "images" / file))
    for i in range(4):
        write_image(root / "val" / "images" / f"val_{i}.JPEG", 64, 64, 3)
        pixels[f"val_{i}.JPEG"] = np.asarray(Image.open(root / "val" / "images" / f"val_{i}.JPEG"))
    lines = [
        f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n"
        for i, wnid in enumerate(("n03", "n01", "n02", "n01"))
    ]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02\nn01\nn03\n")
    (root / "words.txt").write_text(
        "n00\tentity\nn01\tcrane, bird\nn02\tcrane\nn03\tgoldfish, Carassius auratus\n"
    )
    return pixels


def test_tiny_imagenet(tmp_path):
    pixels = write_tiny(tmp_path)
    dataset = load_dataset("tinyimagenet", tmp_path)
    assert dataset.name == "tinyimagenet"
    assert dataset.classes == ("crane (n01)", "crane (n02)", "goldfish")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test.labels.tolist() == [2, 0, 1, 0]
    assert np.array_equal(dataset.train.pixels[2].numpy(), pixels["n02_0.JPEG"].transpose(2, 0, 1))
    assert np.array_equal(dataset.test.pixels[3].numpy(), pixels["val_3.JPEG"].transpose(2, 0, 1))
    assert load_dataset("tinyimagenet", tmp_path / "tiny-imagenet-200", resolution=32).shape == (
        3,
        32,
        32,
    )
    assert verify("tinyimagenet", tmp_path) == [
        "6 training images 3x64x64 of 3 classes, 2 to 2 a class",
        "4 test images 3x64x64 of 3 classes, 1 to 2 a class",
    ]


@pytest.mark.parametrize(
    ("victim", "content", "message"),
    [
        ("val/images/val_2.JPEG", None, "val_2.JPEG: cannot be read"),
        ("val/val_annotations.txt", None, "val_annotations.txt does not exist"),
        ("val/val_annotations.txt", "", "val_annotations.txt: empty"),
        ("val/val_annotations.txt", "val_0.JPEG\tn77\n", "line 1 has the unknown class `n77`"),
        ("wnids.txt", "n01\nn02\nn03\nn04\n", "train/n04: no images"),
    ],
)
def test_an_incomplete_tiny_imagenet_is_named(tmp_path, victim, content, message):
    write_tiny(tmp_path)
    path = tmp_path / "tiny-imagenet-200" / victim
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_dataset("tinyimagenet", tmp_path)


def test_every_known_name_is_answered(tmp_path):
    """Without its files every name but `digits` says which one is missing."""
    for name in DATASETS:
        path = name.replace("PATH", str(tmp_path)).replace("FILE", str(tmp_path / "file"))
        if name == "digits":
            assert verify(name)
            continue
        with pytest.raises(UserError, match=str(tmp_path)):
            verify(path, tmp_path)
