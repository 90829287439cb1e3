"""Datasets that a program holds, and Parquet files, are the same datasets as those by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from condense import as_dataset, condense, evaluate, load_dataset, recipe_for, resume
from condense.data.images import Images
from condense.errors import UserError
from condense.training.protocol import Protocol

DIGITS = load_dataset("digits")


class Pairs(TorchDataset):
    """A map-style dataset, as users write it."""

    def __init__(self, images: Images, form, **attributes) -> None:
        self.images, self.form = images, form
        self.__dict__ |= attributes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        pixels, label = self.images.pixels[index], self.images.labels[index]
        return self.form(pixels), label.item()


FORMS = {
    "a PIL image": lambda pixels: Image.fromarray(pixels[0].numpy()),
    "uint8 [ch, H, W]": lambda pixels: pixels,
    "ToTensor's floats": lambda pixels: pixels.float() / 255,
    "an array [H, W]": lambda pixels: pixels[0].numpy(),
    "an array [H, W, 1]": lambda pixels: pixels.movedim(0, -1).numpy(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_pairs_of_any_form_are_the_dataset(form):
    got = as_dataset(Pairs(DIGITS.train, form), Pairs(DIGITS.test, form))
    assert got.fingerprint == DIGITS.fingerprint
    assert got.test.fingerprint == DIGITS.test.fingerprint
    assert got.classes == DIGITS.classes


def test_arrays_are_the_dataset():
    pixels, labels = DIGITS.train.pixels, DIGITS.train.labels
    for images in (pixels, pixels.numpy(), pixels[:, 0].numpy(), pixels.float() / 255):
        assert as_dataset((images, labels[:, None])).fingerprint == DIGITS.fingerprint
    splits = {"train": (pixels, labels), "validation": (DIGITS.test.pixels, DIGITS.test.labels)}
    assert as_dataset(splits).test.fingerprint == DIGITS.test.fingerprint


def test_torchvision_is_known_by_its_name(tmp_path):
    from torchvision.datasets import CIFAR10, FakeData

    some = CIFAR10.__new__(CIFAR10)  # the files are not needed to hold images
    some.data = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    some.targets, some.transform, some.target_transform = [*range(10)] * 2, None, None
    some.classes = [f"class {c}" for c in range(10)]
    got = as_dataset(some)
    assert (got.name, got.shape, got.classes[3]) == ("cifar10", (3, 32, 32), "class 3")
    part = as_dataset(Subset(some, [5, 3, 15, 13]))
    assert (part.name, part.classes) == ("cifar10", ("class 3", "class 5"))
    assert part.train.labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(part.train.pixels[0], got.train.pixels[5])
    assert as_dataset(FakeData(20, (3, 9, 9), 3)).name == "own"


def test_photos_of_many_sizes_and_modes_need_a_resolution():
    sideways = Image.new("RGB", (30, 20), "blue")
    sideways.getexif()[0x0112] = 6
    photos = [Image.new("L", (40, 30), 7), Image.new("P", (20, 30)), sideways]
    photos += [Image.new("RGBA", (50, 50))]
    data = [(photo, number % 2) for number, photo in enumerate(photos)]

    class Photos(TorchDataset):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int):
            return data[index]

    got = as_dataset(Photos(), resolution=16)
    assert got.shape == (3, 16, 16)
    assert got.train.pixels[0].unique().tolist() == [7]
    with pytest.raises(UserError, match="30 x 20 px, the first one 30 x 40 px: give a resolution"):
        as_dataset(Photos())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


ZEROS = torch.zeros(4, 1, 8, 8)
LABELS = torch.arange(4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "a Stream is not taken: give a map-style torch Dataset"),
        (3, "a int is not taken"),
        ((ZEROS - 1, LABELS), r"image 0: its values are -1 to -1, not pixels in \[0, 1\]"),
        ((ZEROS.long(), LABELS), "its values are int64"),
        ((torch.zeros(4, 5, 8, 8), LABELS), r"image 0: it has shape \[5, 8, 8\]"),
        ((ZEROS, LABELS[:3]), r"4 images have labels of torch.int64 \[3\]"),
        ((ZEROS, LABELS.float()), r"labels of torch.float32 \[4\]; .* for each: `labels.long\(\)`"),
        ((ZEROS, LABELS / 3), r"labels of torch.float32 \[4\]; give a whole number for each$"),
        ((ZEROS + 200, LABELS), "0: its values are 200 to 200, .*: divide them by 255, or convert"),
        ((ZEROS / 0, LABELS), "image 0: some of its values are NaN or infinite"),
        ((ZEROS[:0], LABELS[:0]), "own: there are no images to train on"),
        ([], "own: there are no images to train on"),
        ((ZEROS, LABELS * 0), "images of 1 class: two are needed"),
        (([1, 2], [0, 1]), "a pair must be arrays or tensors"),
        (TensorDataset(ZEROS, LABELS / 2), "item 1: its label is tensor.0.5.*whole number"),
        (TensorDataset(ZEROS), r"item 0: it has 1 part: give \(image, label\)"),
        (TensorDataset(ZEROS, LABELS, LABELS), r"item 0: it has 3 parts: give \(image, label\)"),
        ([{"x": ZEROS[0], "y": 1}], r"item 0: it is a dict of x, y: give \(image, label\)"),
        (ZEROS, r"1 array: give a pair \(images, labels\)"),
        ((ZEROS, LABELS, LABELS), r"3 arrays: give a pair \(images, labels\)"),
        (
            Pairs(DIGITS.train, lambda pixels: {}["path"]),
            r"training images: item 0: it cannot be read \(KeyError: 'path'\)",
        ),
        (Pairs(DIGITS.train, lambda pixels: "a.png"), "item 0: a str is no image"),
        (
            Pairs(DIGITS.train, FORMS["uint8 [ch, H, W]"], classes="abc"),
            "own: a label is 9, but there are 3 classes",
        ),
        ({"test": (ZEROS, LABELS)}, "no `train` among test"),
    ],
)
def test_what_is_no_dataset_is_one_line(data, message):
    with pytest.raises(UserError, match=message) as caught:
        as_dataset(data)
    assert "\n" not in str(caught.value)


def test_a_test_label_that_is_not_trained_on_is_named():
    with pytest.raises(UserError, match="label 4 has test images, but none to train on"):
        as_dataset((ZEROS, LABELS), (ZEROS, LABELS + 4))


def test_test_images_of_another_size_need_a_resolution():
    larger = (torch.zeros(4, 1, 16, 16), LABELS)
    with pytest.raises(UserError, match="the test images have 16 x 16 px, the training images 8 x"):
        as_dataset((ZEROS, LABELS), larger)
    with pytest.raises(UserError, match="have 8 x 9 px, the training images 8 x 8 px"):
        as_dataset((ZEROS, LABELS), (torch.zeros(4, 1, 8, 9), LABELS))
    wide = (torch.zeros(4, 1, 8, 9), LABELS)
    assert as_dataset(wide, wide).test.shape == as_dataset(wide).shape == (1, 8, 8)
    with pytest.raises(UserError, match="own: there are no images to test on"):
        as_dataset((ZEROS, LABELS), (ZEROS[:0], LABELS[:0]))
    assert as_dataset((ZEROS, LABELS), larger, resolution=8).test.shape == (1, 8, 8)


def test_a_dataset_of_a_program_is_condensed_resumed_and_evaluated(tmp_path):
    train = Pairs(DIGITS.train, FORMS["ToTensor's floats"])
    tiny = {"steps": 2, "real_batch": 4, "network": "convnet-d1-w8"}
    recipe = recipe_for("dm", "digits", DIGITS.shape, 1).override(tiny)
    made = condense(train, ipc=1, recipe=recipe, out=tmp_path / "run", quiet=True, device="cpu")
    by_name = condense(DIGITS, ipc=1, recipe=recipe, quiet=True, device="cpu")
    assert torch.equal(made.images, by_name.images)
    quick = {"networks": "mlp", "repeats": 1, "protocol": Protocol(epochs=1), "device": "cpu"}
    both = as_dataset(train, Pairs(DIGITS.test, FORMS["a PIL image"]))
    assert evaluate(made, both, **quick)["mlp"].accuracies
    with pytest.raises(UserError, match=r"no test images: .*as_dataset\(train, test\)"):
        evaluate(made, train, **quick)
    (tmp_path / "run" / "set.safetensors").unlink()
    with pytest.raises(UserError, match=r"unknown dataset `own`: .*give it: `resume"):
        resume(tmp_path / "run", quiet=True)
    assert resume(tmp_path / "run", train, quiet=True).fingerprint == made.fingerprint


# ---- Hugging Face


def written(folder, images: Images, *, file: str = "train-0.parquet", embedded: bool = True):
    """Parquet files as `datasets` writes them. Returns the dataset."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.classes))}
    )
    rows = [
        {"image": Image.fromarray(pixels[0].numpy()), "label": int(label)}
        for pixels, label in zip(images.pixels, images.labels, strict=True)
    ]
    made = datasets.Dataset.from_list(rows, features=features)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    made.to_parquet(folder / file)
    return made


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """A folder of the digits, and the splits as `datasets` holds them."""
    folder = tmp_path_factory.mktemp("parquet")
    few = DIGITS.train.subset(torch.arange(100)), DIGITS.test.subset(torch.arange(30))
    train = written(folder / "set", few[0], file="data/train-00000-of-00001.parquet")
    test = written(folder / "set", few[1], file="data/test-00000-of-00001.parquet")
    return folder / "set", {"train": train, "test": test}, few


def test_a_hugging_face_dataset_is_the_dataset(parquet):
    _, splits, (train, test) = parquet
    got = as_dataset(splits)
    assert got.train.fingerprint == train.fingerprint
    assert got.test.fingerprint == test.fingerprint
    assert got.classes == DIGITS.classes
    renamed = splits["train"].rename_column("label", "digit")
    assert as_dataset(renamed).train.fingerprint == train.fingerprint
    with pytest.raises(UserError, match=r"0 features of kind ClassLabel .none.*rename_column"):
        as_dataset(splits["train"].remove_columns("label"))


def test_a_folder_of_parquet_is_the_dataset(parquet):
    folder, _, (train, test) = parquet
    got = load_dataset(f"hf:{folder}")
    assert got.train.fingerprint == train.fingerprint
    assert got.test.fingerprint == test.fingerprint
    assert load_dataset(f"hf:{folder}", resolution=16).shape == (1, 16, 16)
    split = load_dataset(f"hf:{folder}/data/train-00000-of-00001.parquet")
    assert 0 < len(split.test) < len(split.train)


def test_parquet_of_another_program_is_read_by_its_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    Image.new("L", (8, 8), 9).save(tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes()
    table = pa.table({"image": [picture] * 10, "label": [5, 7] * 5, "other": ["x"] * 10})
    pq.write_table(table, tmp_path / "mine.parquet")
    got = load_dataset(f"hf:{tmp_path}")
    assert got.classes == ("5", "7")
    assert got.train.pixels.unique().tolist() == [9]
    for columns, message in (
        ({"image": [picture], "label": ["cat"]}, "`label` is string: labels are whole numbers"),
        ({"image": ["a.png"], "label": [1]}, "images are string, not pictures as bytes"),
        ({"image": [{"bytes": None, "path": "a"}], "label": [1]}, "not pictures|does not hold"),
        ({"image": [picture] * 2, "label": [1, None]}, "1 images have no label"),
        ({"x": [1]}, "has the columns x: none is `image`"),
        ({"image": [b"no picture"], "label": [1]}, "images of 1 class"),
        (
            {"image": [b"no picture"] * 2, "label": [1, 2]},
            "the picture in row 0 of .*mine.parquet cannot",
        ),
    ):
        pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
        with pytest.raises(UserError, match=message) as caught:
            load_dataset(f"hf:{tmp_path}")
        assert "\n" not in str(caught.value)


def test_rows_that_repeat_one_picture_fill_no_memory(tmp_path):
    """The file keeps the picture once: 1 MB that 400 rows name."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    picture = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int16()), [bytes(2**20)])
    table = pa.table({"image": picture, "label": [0, 1] * 200})
    pq.write_table(table, tmp_path / "train.parquet", store_schema=False)
    assert (tmp_path / "train.parquet").stat().st_size < 2**21
    with pytest.raises(UserError, match=r"train.parquet expands to 0\.3 GB"):
        load_dataset(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no Parquet files; expected train-\*.parquet and .*, at most 2 folders down"),
        ({"a/b/c/train.parquet": b"PAR1"}, "no Parquet files"),
        ({"test-0.parquet": b""}, "only test; expected a file train"),
        ({"a/train.parquet": b"", "b/train.parquet": b""}, "2 configurations .a, b."),
        ({"train.parquet": b"PAR1 and no more"}, "train.parquet is damaged or not a Parquet file"),
        ({"train.parquet": b""}, "train.parquet is damaged or not a Parquet file"),
    ],
)
def test_a_folder_of_something_else_is_one_line(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_is_refused_or_intact(parquet, tmp_path):
    folder, _, _ = parquet
    content = (folder / "data" / "train-00000-of-00001.parquet").read_bytes()
    file = tmp_path / "train.parquet"
    refused = 0
    for place in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            got = load_dataset(f"hf:{file}")
        except UserError:
            refused += 1
        else:
            assert got.shape == DIGITS.shape
    assert refused


def test_a_name_that_is_no_folder_is_loaded_from_the_hub(parquet, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    _, splits, (train, test) = parquet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(datasets, "load_dataset", {"someone/digits": splits}.__getitem__)
    got = load_dataset("hf:someone/digits")
    assert got.name == "hf:someone/digits"
    assert got.train.fingerprint == train.fingerprint
    assert got.test.fingerprint == test.fingerprint
    with pytest.raises(UserError, match=r"someone/else: no such folder, and not loaded from the"):
        load_dataset("hf:someone/else")
    with pytest.raises(UserError, match="no such folder; expected Parquet files"):
        load_dataset("hf:/no/such/folder")
