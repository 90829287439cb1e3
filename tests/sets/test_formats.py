"""Every format: what is written comes back, loads by the lines of its card, and is evaluated."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from condense.data.images import Dataset, Images
from condense.data.preprocess import Standardize, Whiten, make_preprocess
from condense.errors import UserError
from condense.reading import read_json
from condense.sets.card import Result
from condense.sets.condensed import CondensedSet
from condense.sets.exchange import EXPORTERS, export_set, import_set, read_set
from condense.sets.formats import ddranking
from condense.sets.provenance import provenance

CLASSES = ("zebra", "T-shirt/top", 'a "cat" | dog')  # not in the order of their folders


def dataset(channels: int) -> Dataset:
    pixels = torch.randint(256, (30, channels, 8, 8), dtype=torch.uint8)
    return Dataset("own", *(Images(pixels, torch.arange(30) % 3, CLASSES) for _ in range(2)))


def make(kind: str = "standard", *, channels: int = 3, soft: bool = False) -> CondensedSet:
    """Six learned images, beyond what pixels can hold, and not ordered by class."""
    torch.manual_seed(0)
    real = dataset(channels)
    preprocess = make_preprocess(kind, real)
    images = preprocess.apply(real.train.pixels[:6]) + 0.3 * torch.randn(6, channels, 8, 8)
    labels = torch.tensor([1, 2, 0, 0, 1, 2])
    if soft:
        labels = torch.nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    facts = provenance(real, preprocess=preprocess.fingerprint, learned={"lr": 0.02})
    return CondensedSet(images, labels, CLASSES, preprocess, facts)


def names(form: str) -> str:
    return "set" if EXPORTERS[form].folder else f"set.{form}"


ORDERED = ("folder", "ddranking")
"""Formats that order images by class."""


def order_of(condensed: CondensedSet, form: str) -> torch.Tensor:
    by_class = torch.argsort(condensed.class_of(), stable=True)
    return by_class if form in ORDERED else torch.arange(len(condensed))


def same(got: torch.Tensor, condensed: CondensedSet, form: str) -> None:
    """Preprocessed images are those of the set, but for the rounding that the card states."""
    want = condensed.images[order_of(condensed, form)]
    if form in ("folder", "npz"):
        want = condensed.preprocess.apply(condensed.pixels())[order_of(condensed, form)]
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6 if form in ORDERED else 0)


CASES = [
    pytest.param(form, kind, channels, soft, id=f"{form}-{kind}-{channels}-{'soft' * soft}")
    for form in EXPORTERS
    for kind, channels, soft in (
        ("standard", 3, False), ("standard", 1, False), ("zca", 3, False), ("standard", 3, True),
    )
    if not (form == "folder" and soft) and not (form == "ddranking" and channels == 1)
]  # fmt: skip


@pytest.mark.parametrize(("form", "kind", "channels", "soft"), CASES)
def test_what_is_exported_comes_back(form, kind, channels, soft, tmp_path):
    want = make(kind, channels=channels, soft=soft)
    path = export_set(want, tmp_path / names(form), form)
    preprocess = want.preprocess
    if EXPORTERS[form].folder:  # what other tools get, without our own file
        (path / "set.safetensors").unlink()
        if form == "ddranking" and kind == "standard":
            preprocess = ddranking.transform("own")
    got = import_set(path, CLASSES, preprocess, name="own")
    order = order_of(want, form)
    hard = form == "ddranking"
    assert torch.equal(got.labels, (want.class_of() if hard else want.labels)[order])
    assert torch.equal(got.pixels(), want.pixels()[order])
    if preprocess is want.preprocess:
        same(got.images, want, form)


@pytest.mark.parametrize(("form", "kind", "channels", "soft"), CASES)
def test_the_lines_of_the_card_load_it(form, kind, channels, soft, tmp_path, monkeypatch):
    if form == "hf":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    want = make(kind, channels=channels, soft=soft)
    path = export_set(want, tmp_path / names(form), form)
    card = path / "README.md" if path.is_dir() else path.with_name(f"{path.name}.md")
    (lines,) = re.findall(r"```python\n(.*?)\n```", card.read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 14
    monkeypatch.chdir(tmp_path)
    loaded = {}
    exec(lines, loaded)
    loaded = SimpleNamespace(**loaded)
    assert len(next(iter(loaded.loader))[0]) == len(want)
    if form == "folder":
        order = [int(Path(file).stem) for file, _ in loaded.data.samples]
        images, labels = zip(*loaded.data, strict=True)
        images, labels = torch.stack(images), torch.tensor(labels)
    else:
        order, images, labels = order_of(want, form), loaded.images, loaded.labels
    meant = want.labels if form != "ddranking" else want.class_of()
    assert torch.equal(labels, meant[order])
    if form in ("folder", "npz"):
        rounded = want.preprocess.apply(want.pixels())[order]
        torch.testing.assert_close(images, rounded, rtol=0, atol=1e-5)
    elif form != "ddranking" or kind == "zca":
        assert torch.equal(images, want.images[order])


def test_an_export_with_its_dataset_is_evaluated(tmp_path):
    from condense import Protocol, evaluate

    want = make()
    for form in EXPORTERS:
        got = read_set(export_set(want, tmp_path / form / names(form), form))
        assert got.provenance == want.provenance
        assert torch.equal(got.pixels(), want.pixels())
        torch.manual_seed(0)
        scores = evaluate(got, dataset(3), "mlp", 1, Protocol(epochs=1), device="cpu")
        assert scores["mlp"].accuracies


def test_a_hugging_face_folder_has_what_the_hub_wants(tmp_path):
    datasets = pytest.importorskip("datasets")
    want = make(soft=True)
    path = export_set(want, tmp_path / "set", "hf")
    got = datasets.load_dataset(str(path), "ipc2", split="train", cache_dir=tmp_path / "cache")
    assert got.features["label"].names == list(CLASSES)
    assert got.features["preprocessed"] == datasets.Array3D((3, 8, 8), "float32")
    assert got.features["soft_label"] == datasets.List(datasets.Value("float32"), length=3)
    assert got["label"] == want.class_of().tolist()
    for row, pixels, images in zip(got, want.pixels(), want.images, strict=True):
        assert np.array_equal(np.asarray(row["image"]), pixels.movedim(0, -1).numpy())
        assert torch.equal(torch.tensor(row["preprocessed"]), images)
    assert torch.equal(torch.tensor(got["soft_label"][:]), want.labels)
    shuffled = tuple(reversed(CLASSES))
    moved = import_set(path, shuffled, want.preprocess)
    assert torch.equal(moved.labels, want.labels.flip(1))
    with pytest.raises(UserError, match=r"its classes .* are not those of the dataset"):
        import_set(path, ("one", "two", "three"), want.preprocess)


def test_dd_ranking_gets_its_constants_whatever_the_dataset(tmp_path):
    want = make()
    path = export_set(want, tmp_path / "set", "ddranking")
    images, labels, rate = (torch.load(path / f"{name}.pt") for name in ("images", "labels", "lr"))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert rate == torch.tensor(0.02)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    pixels = (images * std[:, None, None] + mean[:, None, None]) * 255
    kept = want.pixels()[order_of(want, "ddranking")]
    inside = (kept > 0) & (kept < 255)
    assert (pixels - kept)[inside].abs().max() <= 0.51
    with pytest.raises(UserError, match="DD-Ranking takes 3 channels"):
        export_set(make(channels=1), tmp_path / "grey", "ddranking")
    some = dataclasses.replace(want, images=want.images[:5], labels=want.labels[:5])
    with pytest.raises(UserError, match="as many images of each class, these have 1 to 2"):
        export_set(some, tmp_path / "some", "ddranking")
    assert not (tmp_path / "some").exists()


@pytest.mark.parametrize("form", EXPORTERS)
def test_a_card_says_what_there_is(form, tmp_path):
    want = make()
    result = Result(network="mlp", protocol="dm", tested_on="30 images", accuracy="55.5 %")
    path = export_set(want, tmp_path / names(form), form, results=[result])
    card = path / "README.md" if path.is_dir() else path.with_name(f"{path.name}.md")
    text = card.read_text()
    _, front, body = text.split("---\n", 2)
    yaml = pytest.importorskip("yaml").safe_load(front)
    assert yaml["license"] == "unknown"
    assert yaml["task_categories"] == ["image-classification"]
    assert ("configs" in yaml) == (form == "hf")
    assert "| mlp | dm | 30 images | 55.5 % |" in body
    for value in want.preprocess.mean.tolist():
        assert str(np.float32(value)) in body
    assert "| 1 | T-shirt/top |" in body
    assert "state the licence of the real images" in body
    (facts,) = re.findall(r"```json\n(.*?)```", body, re.DOTALL)
    assert json.loads(facts) == want.provenance


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"recipe": {"name": "best", "method": {"name": "dm"}}}, "the recipe `best` (method `dm`)"),
        ({"method": "herding", "seed": 0}, "real images, selected by the method `herding`"),
        ({"imported": "a.pt"}, "imported from a file"),
        ({}, "is not recorded"),
    ],
)
def test_a_card_says_how_the_images_were_made(facts, sentence, tmp_path):
    export_set(dataclasses.replace(make(), provenance=facts), tmp_path / "a.npz", "npz")
    assert sentence in (tmp_path / "a.npz.md").read_text()


def test_a_set_without_preprocessing_is_imported_first(tmp_path):
    want = make()
    torch.save({"data": [[want.images, want.labels]]}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="does not say how its images were preprocessed: import it"):
        read_set(tmp_path / "a.pt")
    for form, kind in (
        ("folder", "a folder of pictures"),
        ("hf", "a folder of Parquet files"),
        ("ddranking", "a folder of images and labels"),
    ):
        path = export_set(want, tmp_path / form, form)
        (path / "set.safetensors").unlink()
        with pytest.raises(UserError, match=f"{form} is {kind}.*import it first"):
            read_set(path)


def test_an_import_under_another_transform_is_refused(tmp_path):
    want = make()
    other = Whiten.fit(dataset(3).train.pixels)
    for form in ("pt", "safetensors"):
        path = export_set(want, tmp_path / names(form), form)
        with pytest.raises(UserError, match="its images are under `standard`, not `zca`"):
            import_set(path, CLASSES, other)


def test_safetensors_of_another_program(tmp_path):
    from safetensors.torch import save_file

    want = make()
    file = tmp_path / "theirs.safetensors"
    save_file({"images": want.images, "labels": want.labels}, file)
    assert import_set(file, CLASSES, want.preprocess).fingerprint == want.fingerprint
    save_file({"weights": want.images}, file)
    with pytest.raises(UserError, match="has the tensors weights: it must have `images` and"):
        import_set(file, CLASSES, want.preprocess)
    file.write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        import_set(file, CLASSES, want.preprocess)
    with pytest.raises(UserError, match=r"a\.bin: a safetensors file ends in \.safetensors"):
        export_set(want, tmp_path / "a.bin", "safetensors")


@pytest.mark.parametrize("damage", [{"classes": "[1"}, {"provenance": "[]"}, {"preprocess": "x"}])
def test_a_damaged_export_is_one_line(damage, tmp_path):
    path = export_set(make(), tmp_path / "a.pt", "pt")
    content = torch.load(path) | damage
    torch.save(content, path)
    with pytest.raises(UserError, match=r"a\.pt: ") as caught:
        read_set(path)
    assert "\n" not in str(caught.value)


def test_mosaics_are_decoded_and_the_set_itself_is_beside(tmp_path):
    preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    images, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    want = CondensedSet(images, labels, CLASSES, preprocess, {}, formation=2)
    path = export_set(want, tmp_path / "set", "hf")
    assert (
        "mosaics of 2 x 2; here they are decoded, 4 per class" in (path / "README.md").read_text()
    )
    assert CondensedSet.load(path).fingerprint == want.fingerprint
    assert len(import_set(path, CLASSES, preprocess)) == 12
    assert read_json(export_set(want, tmp_path / "folder", "folder") / "classes.json")
