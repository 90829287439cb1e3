"""Sets of other tools: what they must be; and that exports lose no picture and replace nothing."""

import hashlib
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from condense.data.catalogue import Source
from condense.data.preprocess import Standardize, Whiten, make_preprocess
from condense.errors import UserError
from condense.runs.shelf import import_into
from condense.sets.condensed import CondensedSet
from condense.sets.exchange import export_set, import_set
from condense.sets.formats.pictures import folder_names

DIGITS = Source(name="digits").load()
STANDARD = make_preprocess("standard", DIGITS)


def real(per_class: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of real digits, `per_class` of each."""
    chosen = torch.cat([DIGITS.train.of_class(c)[:per_class] for c in range(10)])
    return DIGITS.train.pixels[chosen], DIGITS.train.labels[chosen]


def save_pt(path: Path, *content) -> Path:
    torch.save(list(content), path)
    return path


def refused(path: Path, message: str, preprocess=STANDARD) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_set(path, DIGITS.classes, preprocess, name="digits")
    assert "\n" not in str(caught.value)


# ---- what is taken

KEPT = {"preprocess": None, "experiment": 0, "storage": "float32"}


@pytest.mark.parametrize("name", ["set.safetensors", "pictures", "set.npz"])
def test_what_condensekit_wrote_is_imported_as_it_is(name, tmp_path):
    pixels, labels = real()
    facts = {"recipe": "kept"}
    want = CondensedSet(STANDARD.apply(pixels), labels, DIGITS.classes, STANDARD, facts, 2)
    if name == "set.safetensors":
        want.save(tmp_path / name)
    else:
        export_set(want, tmp_path / name, "folder" if name == "pictures" else "npz")
    source = Source(name="digits")
    got = import_into(tmp_path / "ours", tmp_path / name, DIGITS, source, **KEPT)
    assert got.provenance == facts
    if name != "set.npz":  # which holds what is decoded
        assert got.fingerprint == want.fingerprint


@pytest.mark.parametrize(
    ("dataset", "named"),
    [("digits", "digits"), ("folder:pets", "folder:PATH"), ("my own", "NAME")],
)
def test_a_card_names_the_dataset_as_the_command_does(dataset, named, tmp_path):
    pixels, labels = real()
    facts = {"dataset": {"name": dataset}}
    want = CondensedSet(STANDARD.apply(pixels), labels, DIGITS.classes, STANDARD, facts)
    export_set(want, tmp_path / "a.npz", "npz")
    card = (tmp_path / "a.npz.md").read_text()
    assert f"`condensekit evaluate a.npz --dataset {named}`" in card


@pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.safetensors"])
def test_a_file_of_another_tool_needs_its_preprocessing_named(name, tmp_path):
    pixels, labels = real()
    if name == "a.pt":
        save_pt(tmp_path / name, STANDARD.apply(pixels), labels)
    elif name == "a.npz":
        np.savez(tmp_path / name, train_images=pixels[:, 0], train_labels=labels)
    else:
        save_file({"images": STANDARD.apply(pixels), "labels": labels}, tmp_path / name)
    with pytest.raises(UserError, match="--preprocess"):
        import_into(tmp_path / "ours", tmp_path / name, DIGITS, Source(name="digits"), **KEPT)


def test_a_set_without_images_of_some_class_is_refused(tmp_path):
    pixels, labels = real(5)
    six = labels < 6
    message = r"its 30 images are of 6 classes, digits has 10 \(none of `6`"
    refused(save_pt(tmp_path / "a.pt", STANDARD.apply(pixels[six]), labels[six]), message)
    np.savez(tmp_path / "a.npz", train_images=pixels[six, 0], train_labels=labels[six])
    refused(tmp_path / "a.npz", message)


def test_a_set_of_another_size_is_not_of_the_dataset(tmp_path):
    images = torch.randn(10, 3, 32, 32)
    file = save_pt(tmp_path / "a.pt", images.to(torch.uint8)[:, :1], torch.arange(10))
    how = {"preprocess": "standard", "experiment": 0, "storage": "float32"}
    message = r"a\.pt.*images of shape \(1, 32, 32\), .*\(1, 8, 8\): .*\(--resolution 32\)"
    with pytest.raises(UserError, match=message):
        import_into(tmp_path / "ours", file, DIGITS, Source(name="digits"), **how)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("kind", [Standardize, Whiten])
def test_images_that_nobody_preprocessed_are_refused(kind, tmp_path):
    pixels, labels = real()
    preprocess = kind.fit(DIGITS.train.pixels)
    raw = pixels.float()
    for images in (raw, raw / 255, raw - 128):
        file = save_pt(tmp_path / "a.pt", images, labels)
        refused(file, "are not those of images under", preprocess)
    for images in (preprocess.apply(pixels), 4 * preprocess.apply(pixels), 0 * raw):
        file = save_pt(tmp_path / "a.pt", images, labels)
        got = import_set(file, DIGITS.classes, preprocess)
        assert torch.equal(got.images, images)
    got = import_set(save_pt(tmp_path / "a.pt", pixels, labels), DIGITS.classes, preprocess)
    assert torch.equal(got.pixels(), pixels)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(10, 1, 8, 8, dtype=torch.int64), torch.arange(10), "images of torch.int64"),
        (torch.zeros(10, 1, 8, 8, dtype=torch.complex64), torch.arange(10), "torch.complex64"),
        (torch.zeros(10, 1, 8, 8), torch.zeros(10, 10, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(1, 1, 8, 8).expand(2**33, 1, 8, 8), torch.arange(10), "expands to"),
        (torch.zeros(10, 1, 8, 8), torch.zeros(1, dtype=torch.int64).expand(2**40), "expands to"),
        (torch.empty(10, 1, 8, 8, device="meta"), torch.arange(10), "not ordinary .meta."),
        (torch.zeros(10, 1, 8, 8).to_sparse(), torch.arange(10), "not ordinary .sparse"),
    ],
)
def test_tensors_that_are_no_images_and_labels_are_refused(images, labels, message, tmp_path):
    refused(save_pt(tmp_path / "a.pt", images, labels), message)


def test_the_provenance_keeps_the_hash_and_the_published_accuracies(tmp_path):
    pixels, labels = real()
    content = {
        "data": [[STANDARD.apply(pixels), labels]],
        "accs_all_exps": {
            "ConvNet": [np.float64(0.5), np.float64(0.25)],
            "MLP": [float("nan")],
            3: [0.1],
        },
    }
    torch.save(content, tmp_path / "res.pt")
    facts = import_set(tmp_path / "res.pt", DIGITS.classes, STANDARD, name="digits").provenance
    assert facts["sha256"] == hashlib.sha256((tmp_path / "res.pt").read_bytes()).hexdigest()
    assert facts["accuracies"] == {"ConvNet": [0.5, 0.25]}
    assert facts["condensekit"]
    assert (facts["imported"], facts["dataset"], facts["experiment"]) == ("res.pt", "digits", 0)


def test_the_hash_of_two_files_is_that_of_the_list_that_sha256sum_prints(tmp_path):
    pixels, labels = real()
    torch.save(STANDARD.apply(pixels), tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    facts = import_set(tmp_path, DIGITS.classes, STANDARD).provenance
    listed = subprocess.run(
        ["sha256sum", "images_best.pt", "labels_best.pt"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert facts["sha256"] == hashlib.sha256(listed.stdout).hexdigest()
    assert "accuracies" not in facts


# ---- folders of pictures


def test_photos_are_read_as_they_are_seen(tmp_path):
    seen = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for c, turn in enumerate((0, 1)):
        image = Image.fromarray(np.ascontiguousarray(np.rot90(seen, turn)))
        image.getexif()[0x0112] = (1, 6)[c]
        (tmp_path / f"{c}").mkdir()
        image.save(tmp_path / f"{c}" / "1.png", exif=image.getexif())
    got = import_set(tmp_path, ("0", "1"), STANDARD)
    for pixels in got.pixels():
        assert np.array_equal(pixels[0].numpy(), seen)


def named(classes: tuple[str, ...]) -> CondensedSet:
    """Two images of each class, all different."""
    pixels = torch.arange(2 * len(classes), dtype=torch.uint8)[:, None, None, None]
    preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    labels = torch.arange(2 * len(classes)) % len(classes)
    images = preprocess.apply(pixels.expand(-1, 1, 3, 3))
    return CondensedSet(images, labels, classes, preprocess, {})


NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["cat", "Cat", "CAT", "cat (2)", "a/b", "a_b", "a?b", "..", ".", "../..", "/", "~", "",
         "readme.md", " ", "x" * 300, "é" * 150, "e\u0301", "\u00e9", "classes.json", "nul\0", "\n",
         "\udc80"]
    ),
)  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(("x" * 300, "x" * 300, "X" * 300))
@example(("classes.json", "../..", ""))
@given(st.lists(NAMES, min_size=1, max_size=6).map(tuple))
def test_no_picture_is_lost_or_leaves_the_folder_whatever_the_classes_are_called(
    tmp_path_factory, classes
):
    home = tmp_path_factory.mktemp("home")
    want = named(classes)
    folder = export_set(want, home / "deep" / "pictures", "folder")
    assert len([*home.rglob("*.png")]) == len([*folder.glob("*/*.png")]) == len(want)
    assert [entry.name for entry in home.iterdir()] == ["deep"]
    assert [entry.name for entry in (home / "deep").iterdir()] == ["pictures"]
    got = import_set(folder, classes, want.preprocess)
    order = torch.argsort(want.labels, stable=True)
    assert torch.equal(got.pixels(), want.pixels()[order])
    assert torch.equal(got.labels, want.labels[order])


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=12))
def test_every_class_has_a_folder_of_its_own_that_can_be_made(classes):
    folders = folder_names(classes)
    assert len({folder.casefold() for folder in folders}) == len(classes)
    for folder in folders:
        assert len(folder.encode()) <= 255
        assert folder == Path(folder).name
        assert not folder.startswith(".")


def test_names_that_can_stay_do():
    stay = ("n01440764", "English springer", "a?b", "c:d", 'quote"', "été", "日本", "-x", "50 %")
    assert folder_names(stay) == list(stay)
    assert folder_names(("a/b", "a_b", "A_B", "a_b")) == ["a_b (4)", "a_b", "A_B (2)", "a_b (3)"]


def test_the_mapping_of_folders_to_classes_is_beside_them(tmp_path):
    folder = export_set(named(("T-shirt/top", "../..")), tmp_path / "pictures", "folder")
    assert json.loads((folder / "classes.json").read_text()) == {
        "T-shirt_top": "T-shirt/top",
        "_._..": "../..",
    }
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "README.md",
        "T-shirt_top",
        "_._..",
        "classes.json",
        "set.safetensors",
    ]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"../cat": "cat", "dog": "dog"}, r"`\.\./cat` is not the name of a folder"),
        ({"..": "cat", "dog": "dog"}, r"`\.\.` is not the name of a folder"),
        ({"/": "cat", "dog": "dog"}, "`/` is not the name of a folder"),
        ({"cat": "dog", "dog": "cat"}, "names the classes dog, cat"),
        ({"cat": "cat"}, "names the classes cat"),
        (["cat", "dog"], "classes.json: `folders` is"),
        ({"cat": 1, "dog": 2}, "classes.json: `folders.cat` is 1"),
        ("not JSON", "classes.json"),
    ],
)
def test_a_strange_mapping_is_one_line_and_nothing_outside_is_read(mapping, message, tmp_path):
    folder = export_set(named(("cat", "dog")), tmp_path / "pictures", "folder")
    export_set(named(("cat",)), tmp_path / "other", "folder")
    text = mapping if mapping == "not JSON" else json.dumps(mapping)
    (folder / "classes.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        import_set(folder, ("cat", "dog"), STANDARD)
    assert "\n" not in str(caught.value)


def test_folders_without_a_mapping_are_named_by_class(tmp_path):
    want = named(("T-shirt/top", "dog"))
    folder = export_set(want, tmp_path / "pictures", "folder")
    (folder / "classes.json").unlink()
    assert import_set(folder, want.classes, want.preprocess).counts().tolist() == [2, 2]
    with pytest.raises(UserError, match=r"unknown class folder in .*pictures `T-shirt_top`"):
        import_set(folder, ("cat", "dog"), want.preprocess)
    (folder / "T-shirt_top" / "zz.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"zz\.png cannot be decoded"):
        import_set(folder, want.classes, want.preprocess)
    Image.new("L", (2, 2)).save(folder / "T-shirt_top" / "zz.png")
    with pytest.raises(UserError, match=r"zz\.png is \[1, 2, 2\]"):
        import_set(folder, want.classes, want.preprocess)


def test_pictures_that_together_fill_the_memory_are_refused(tmp_path):
    """Each is small enough, and there are many: 30 black pictures of 9 megapixels."""
    buffer = io.BytesIO()
    Image.new("L", (3000, 3000)).save(buffer, "PNG")
    for c in ("0", "1"):
        (tmp_path / c).mkdir()
        for number in range(15):
            (tmp_path / c / f"{number:02}.png").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"expands to 0\.3 GB"):
        import_set(tmp_path, ("0", "1"), STANDARD)


# ---- where exports may go


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_an_export_replaces_a_file_only_by_force(form, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"precious\.txt exists: .*--force"):
        export_set(named(("cat", "dog")), path, form)
    assert path.read_text() == "mine"
    export_set(named(("cat", "dog")), path, form, force=True)
    path.rename(tmp_path / f"a.{form}")
    assert len(import_set(tmp_path / f"a.{form}", ("cat", "dog"), STANDARD)) == 4


@pytest.mark.parametrize("form", ["folder", "npz", "pt"])
@pytest.mark.parametrize("force", [False, True])
def test_an_export_never_replaces_what_is_no_file(form, force, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full" / "mine.txt")
    for path in (Path("/dev/null"), tmp_path / "full", tmp_path / "link"):
        before = path.lstat()
        with pytest.raises(UserError, match="cannot"):
            export_set(named(("cat", "dog")), path, form, force=force)
        after = path.lstat()
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
