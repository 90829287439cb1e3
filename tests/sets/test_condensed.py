"""The condensed-set file and its exchange formats.

What goes in comes out, and damage is noticed.
"""

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condense.data.preprocess import Standardize, Whiten
from condense.errors import UserError
from condense.files import load_tensors, save_tensors
from condense.sets.condensed import STORAGES, CondensedSet
from condense.sets.exchange import export_set, import_set

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_set(
    count=6, channels=3, size=(4, 5), num_classes=3, soft=False, seed=0, spread=1.0
) -> CondensedSet:
    """Pixels under a fitted standardisation, moved away from whole grey levels (and out of range
    if `spread` is large).
    """
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, *size), generator=random, dtype=torch.uint8)
    preprocess = Standardize.fit(torch.cat([pixels, 255 - pixels]))
    noise = spread * torch.rand(pixels.shape, generator=random)
    labels = (
        torch.randn(count, num_classes, generator=random)
        if soft
        else torch.arange(count) % num_classes
    )
    classes = tuple(f"class {c}" for c in range(num_classes))
    return CondensedSet(
        preprocess.apply(pixels) + noise,
        labels,
        classes,
        preprocess,
        {"seed": seed, "recipe": {"ipc": 2}},
    )


def make_whitened() -> CondensedSet:
    """Real-range images under ZCA."""
    pixels = make_set(count=40, spread=0).pixels()
    preprocess = Whiten.fit(pixels)
    return CondensedSet(
        preprocess.apply(pixels), torch.arange(40) % 3, ("a", "b", "c"), preprocess, {}
    )


def same(a: CondensedSet, b: CondensedSet) -> bool:
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and a.labels.dtype == b.labels.dtype
        and (a.classes, a.provenance, a.fingerprint) == (b.classes, b.provenance, b.fingerprint)
        and a.preprocess.fingerprint == b.preprocess.fingerprint
    )


sets = st.builds(
    make_set,
    count=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    num_classes=st.integers(1, 4),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)


# ---- the file


@given(condensed=sets)
@quick
def test_float32_round_trip_is_exact(condensed, tmp_path):
    assert same(CondensedSet.load(condensed.save(tmp_path / "a.safetensors")), condensed)


@given(condensed=sets)
@quick
def test_float16_round_trip_is_rounding(condensed, tmp_path):
    loaded = CondensedSet.load(condensed.save(tmp_path / "a.safetensors", "float16"))
    assert loaded.images.dtype == torch.float32
    assert np.array_equal(
        loaded.images.numpy(), condensed.images.numpy().astype(np.float16).astype(np.float32)
    )


@given(condensed=sets)
@quick
def test_uint8_moves_a_value_by_at_most_half_a_step_of_its_channels_range(condensed, tmp_path):
    images = condensed.images
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    half = ((high - low) / 510)[:, None, None]
    loaded = CondensedSet.load(condensed.save(tmp_path / "a.safetensors", "uint8"))
    lost = (loaded.images - images).abs()
    # Where pixels are closer everywhere, they are what is stored.
    assert lost.amax() <= half.amax() * 1.0001 + 1e-5


@given(condensed=sets)
@quick
def test_uint8_keeps_every_bit_of_real_images(condensed, tmp_path):
    real = replace(condensed, images=condensed.preprocess.apply(condensed.pixels()))
    loaded = CondensedSet.load(real.save(tmp_path / "a.safetensors", "uint8"))
    assert torch.equal(loaded.images, real.images)


def test_uint8_reads_what_older_versions_wrote(tmp_path):
    condensed = make_set()
    tensors = {"images": condensed.pixels(), "labels": condensed.labels}
    tensors |= {f"preprocess.{key}": value for key, value in condensed.preprocess.state().items()}
    header = {"format": 1, "classes": condensed.classes, "preprocess": "standard"}
    header |= {"provenance": condensed.provenance, "storage": "uint8"}
    save_tensors(tmp_path / "old.safetensors", tensors, header)
    assert torch.equal(
        CondensedSet.load(tmp_path / "old.safetensors").images,
        condensed.preprocess.apply(condensed.pixels()),
    )


def test_ranges_that_do_not_fit_the_images_are_one_line(tmp_path):
    condensed = make_set()
    wide = replace(condensed, images=condensed.images * 5)
    file = wide.save(tmp_path / "a.safetensors", "uint8")
    tensors, header = load_tensors(file)
    save_tensors(file, tensors | {"range.low": torch.zeros(7)}, header)
    with pytest.raises(UserError, match="with a range for each channel, not uint8"):
        CondensedSet.load(file)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_whitened_set_keeps_its_transform(storage, tmp_path):
    condensed = make_whitened()
    loaded = CondensedSet.load(condensed.save(tmp_path / "a.safetensors", storage))
    assert loaded.preprocess.fingerprint == condensed.preprocess.fingerprint
    assert torch.equal(loaded.pixels(), condensed.pixels())
    assert same(loaded, condensed) == (storage != "float16")


@pytest.mark.parametrize("storage", STORAGES)
def test_equal_sets_give_equal_bytes_and_loading_saves_again_the_same(storage, tmp_path):
    one, two = make_set(), make_set()
    files = [
        one.save(tmp_path / "a.safetensors", storage),
        two.save(tmp_path / "b.safetensors", storage),
    ]
    files.append(CondensedSet.load(files[0]).save(tmp_path / "c.safetensors", storage))
    assert len({file.read_bytes() for file in files}) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


def test_provenance_order_does_not_change_the_bytes(tmp_path):
    one = make_set()
    two = CondensedSet(
        one.images, one.labels, one.classes, one.preprocess, dict(reversed(one.provenance.items()))
    )
    assert one.save(tmp_path / "a").read_bytes() == two.save(tmp_path / "b").read_bytes()


def test_storage_sizes(tmp_path):
    condensed = make_set(count=6, channels=3, size=(4, 5))
    assert [condensed.nbytes(storage) for storage in ("float32", "float16", "uint8")] == [
        6 * 60 * each + 6 * 8 for each in (4, 2, 1)
    ]
    with pytest.raises(UserError, match="unknown storage `float8`: did you mean"):
        condensed.save(tmp_path / "a", "float8")


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncation_at_any_byte_is_noticed(data, tmp_path):
    content = make_set(2, 1, (2, 3), 2).save(tmp_path / "whole.safetensors").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    file = tmp_path / "cut.safetensors"
    file.write_bytes(content[:cut])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        CondensedSet.load(file)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_flip_of_any_payload_byte_is_noticed(storage, tmp_path):
    content = make_set(2, 1, (2, 3), 2).save(tmp_path / "whole.safetensors", storage).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    file = tmp_path / "flipped.safetensors"
    for position in range(start, len(content)):
        for mask in (1, 128):
            file.write_bytes(
                content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]
            )
            with pytest.raises(UserError, match=r"flipped.safetensors is damaged"):
                CondensedSet.load(file)


def test_a_flip_in_the_header_is_an_error_or_changes_nothing(tmp_path):
    condensed = make_set(2, 1, (2, 3), 2)
    content = condensed.save(tmp_path / "whole.safetensors").read_bytes()
    file = tmp_path / "flipped.safetensors"
    noticed = 0
    end = 8 + int.from_bytes(content[:8], "little")
    for position in range(end):
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        try:
            loaded = CondensedSet.load(file)
        except UserError:
            noticed += 1
        else:
            assert same(loaded, condensed)
    assert noticed > 0.95 * end  # the rest is padding


def test_missing_foreign_and_future_files(tmp_path):
    with pytest.raises(
        UserError, match=r"no condensed set at .*nowhere.*set.safetensors: check the path"
    ):
        CondensedSet.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        CondensedSet.load(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").touch()
    with pytest.raises(UserError, match="has not ended, go on with `condensekit condense --resume"):
        CondensedSet.load(tmp_path / "begun")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="import it first"):
        CondensedSet.load(tmp_path / "a.pt")
    save_tensors(tmp_path / "new.safetensors", {"images": torch.zeros(1)}, {"format": 99})
    with pytest.raises(UserError, match=r"format 99, this version reads up to 4"):
        CondensedSet.load(tmp_path / "new.safetensors")
    save_tensors(tmp_path / "other.safetensors", {"images": torch.zeros(1)}, {"format": 1})
    with pytest.raises(UserError, match=r"other.safetensors lacks 'labels'"):
        CondensedSet.load(tmp_path / "other.safetensors")


def test_a_folder_holds_its_set(tmp_path):
    condensed = make_set()
    assert condensed.save(tmp_path / "run") == tmp_path / "run" / "set.safetensors"
    assert same(CondensedSet.load(tmp_path / "run"), condensed)


def test_a_folder_may_be_called_like_a_file(tmp_path):
    folder = tmp_path / "run.safetensors"
    folder.mkdir()
    assert make_set().save(folder) == folder / "set.safetensors"
    assert same(CondensedSet.load(folder), make_set())


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    condensed = make_set(spread=1e6)
    with pytest.raises(UserError, match="too large for float16"):
        condensed.save(tmp_path / "a", "float16")
    assert not (tmp_path / "a").exists()


# ---- the set


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            torch.zeros(2).long(),
            r"float32 \[N, ch, H, W\], not float32 \[2, 3, 4\]",
        ),
        (torch.zeros(2, 3, 4, 4).double(), torch.zeros(2).long(), "not float64"),
        (torch.zeros(0, 3, 4, 4), torch.zeros(0).long(), r"not float32 \[0, 3, 4, 4\]"),
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(3).long(),
            r"int64 \[2\] or float32 \[2, 2\], not int64 \[3\]",
        ),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 5), r"not float32 \[2, 5\]"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 2]), "run from 0 to 2, but there are 2 classes"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([-1, 0]), "run from -1 to 0"),
        (torch.full((2, 3, 4, 4), torch.nan), torch.zeros(2).long(), "`images` .* not finite"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 2), torch.inf), "`labels` .* not finite"),
    ],
)
def test_parts_that_do_not_fit_are_refused(images, labels, message):
    preprocess = make_set().preprocess
    with pytest.raises(UserError, match=message):
        CondensedSet(images, labels, ("a", "b"), preprocess, {})


def test_provenance_must_be_json():
    good = make_set()
    with pytest.raises(UserError, match="plain JSON"):
        CondensedSet(
            good.images, good.labels, good.classes, good.preprocess, {"device": torch.device("cpu")}
        )
    with pytest.raises(UserError, match="plain JSON"):
        CondensedSet(good.images, good.labels, good.classes, good.preprocess, {"lr": float("nan")})


def test_views_of_a_set():
    condensed = make_set(count=7, num_classes=3)
    assert (len(condensed), condensed.ipc, condensed.counts().tolist()) == (7, 3, [3, 2, 2])
    assert torch.equal(condensed.per_class(1), condensed.images[[1, 4]])
    image, label = condensed.as_dataset()[4]
    assert torch.equal(image, condensed.images[4])
    assert label == 1
    soft = make_set(soft=True)
    largest = [max(range(3), key=row.__getitem__) for row in soft.labels.tolist()]
    assert soft.class_of().tolist() == largest


def test_pixels_round_to_the_nearest_and_clip():
    original = make_set(spread=0)
    levels = original.pixels()
    assert torch.equal(original.preprocess.apply(levels), original.images)
    nudge = original.preprocess.apply(torch.ones_like(levels)) - original.preprocess.apply(
        torch.zeros_like(levels)
    )
    for part, expected in ((0.4, 0), (0.6, 1), (-0.4, 0), (-0.6, -1), (1000, 255), (-1000, -255)):
        moved = CondensedSet(
            original.images + part * nudge,
            original.labels,
            original.classes,
            original.preprocess,
            original.provenance,
        )
        assert torch.equal(moved.pixels().int(), (levels.int() + expected).clamp(0, 255))


def test_fingerprint_follows_content_and_not_provenance():
    one = make_set()
    same_content = CondensedSet(
        one.images.clone(), one.labels, one.classes, one.preprocess, {"seed": 5}
    )
    other_pixel = one.images.clone()
    other_pixel[0, 0, 0, 0] += 1
    others = [
        CondensedSet(other_pixel, one.labels, one.classes, one.preprocess, {}),
        CondensedSet(one.images, one.labels.flip(0), one.classes, one.preprocess, {}),
        CondensedSet(one.images, one.labels, ("x", "y", "z"), one.preprocess, {}),
        CondensedSet(one.images, one.labels, one.classes, make_set(seed=1).preprocess, {}),
    ]
    assert same_content.fingerprint == one.fingerprint
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def with_preprocess(condensed: CondensedSet, like: CondensedSet, **changes) -> CondensedSet:
    parts = {"labels": condensed.labels, "classes": condensed.classes} | changes
    return CondensedSet(
        condensed.images, parts["labels"], parts["classes"], like.preprocess, condensed.provenance
    )


def test_merge_concatenates_and_keeps_every_provenance():
    one = make_set(seed=0)
    two, three = (with_preprocess(make_set(seed=seed), one) for seed in (1, 2))
    merged = one.merge(two).merge(three)
    assert torch.equal(merged.images, torch.cat([one.images, two.images, three.images]))
    assert merged.labels.tolist() == [0, 1, 2] * 6
    assert [part["seed"] for part in merged.provenance["merged"]] == [0, 1, 2]
    soft = with_preprocess(make_set(soft=True), one)
    mixed = one.merge(soft)
    assert torch.equal(mixed.labels, torch.cat([torch.eye(3).repeat(2, 1), soft.labels]))


def test_merge_refuses_what_does_not_belong_together():
    one = make_set(seed=0)
    with pytest.raises(
        UserError,
        match=f"{one.preprocess.fingerprint}.* and .*{make_set(seed=1).preprocess.fingerprint}",
    ):
        one.merge(make_set(seed=1))
    with pytest.raises(UserError, match="different classes: class 0, class 1, class 2 and x, y, z"):
        one.merge(with_preprocess(one, one, classes=("x", "y", "z")))
    with pytest.raises(UserError, match="different image shapes"):
        one.merge(make_set(size=(4, 6)))


# ---- exchange


def save_pt(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def test_published_layouts(tmp_path):
    want = make_set()
    images, labels = want.images, want.labels
    other = [torch.zeros(6, 3, 4, 5), labels]
    accuracies = {
        "ConvNet": [np.float64(0.5), np.float64(0.25)]
    }  # as the published code saves them
    dc = save_pt(
        tmp_path / "res.pt", {"data": [other, [images, labels]], "accs_all_exps": accuracies}
    )
    pair = save_pt(tmp_path / "pair.pt", (images, labels))
    (tmp_path / "mtt").mkdir()
    save_pt(tmp_path / "mtt" / "images_best.pt", images)
    save_pt(tmp_path / "mtt" / "labels_best.pt", labels)
    numbers = [import_set(dc, want.classes, want.preprocess, experiment=1)]
    numbers += [
        import_set(path, want.classes, want.preprocess)
        for path in (pair, tmp_path / "mtt", tmp_path / "mtt/images_best.pt")
    ]
    for got in numbers:
        assert torch.equal(got.images, images)
        assert torch.equal(got.labels, labels)
    assert not import_set(dc, want.classes, want.preprocess).images.any()
    with pytest.raises(UserError, match=r"holds 2 experiments .* no experiment 2"):
        import_set(dc, want.classes, want.preprocess, experiment=2)


def test_accuracies_written_by_the_older_numpy(tmp_path):
    want = make_set()
    new, old = io.BytesIO(), tmp_path / "old.pt"
    torch.save({"data": [[want.images, want.labels]], "accs_all_exps": [np.float64(0.5)]}, new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(entry, content)
    assert torch.equal(import_set(old, want.classes, want.preprocess).images, want.images)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the file ran')",))


@pytest.mark.parametrize("old_format", [False, True])
def test_code_in_a_pt_is_refused(old_format, tmp_path):
    want = make_set()
    content = {"data": [[want.images, want.labels]], "extra": Payload()}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match=r"evil.pt holds `\S*exec\S*`.*refused"):
        import_set(tmp_path / "evil.pt", want.classes, want.preprocess)
    torch.save({"data": np.array([Payload()], dtype=object)}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="refused"):
        import_set(tmp_path / "evil.pt", want.classes, want.preprocess)


class ObjectScalar:
    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (np.dtype("O"), b"x")


def test_a_numpy_scalar_with_an_object_is_refused(tmp_path):
    want = make_set()
    save_pt(tmp_path / "odd.pt", {"data": [ObjectScalar()]})
    with pytest.raises(UserError, match=r"odd\.pt"):
        import_set(tmp_path / "odd.pt", want.classes, want.preprocess)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "a.pt is damaged"),
        ("a.pt", b"not a pickle at all", "a.pt is damaged"),
        ("a.npz", b"PK\x03\x04 cut", "a.npz is damaged"),
        ("a.npz", pickle.dumps([1]), "a.npz is damaged"),
        ("a.tar", b"x", r"give a .pt or .npz file, or a folder"),
    ],
)
def test_damaged_files_are_named_in_one_line(name, content, message, tmp_path):
    want = make_set()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        import_set(tmp_path / name, want.classes, want.preprocess)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["pt", "npz"])
def test_a_truncated_file_is_named_at_any_cut(form, tmp_path):
    want = make_set()
    content = export_set(want, tmp_path / f"whole.{form}", form).read_bytes()
    file = tmp_path / f"cut.{form}"
    for cut in range(0, len(content) - 1, 29):
        file.write_bytes(content[:cut])
        with pytest.raises(UserError, match=rf"cut.{form} is damaged") as caught:
            import_set(file, want.classes, want.preprocess)
        assert "\n" not in str(caught.value)


def test_a_flip_of_any_byte_in_an_npz_never_escapes(tmp_path):
    want = make_set()
    content = export_set(want, tmp_path / "whole.npz", "npz").read_bytes()
    file = tmp_path / "flipped.npz"
    for position in range(0, len(content), 3):
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]
        )
        try:
            got = import_set(file, want.classes, want.preprocess)
        except UserError:
            continue
        assert torch.equal(got.pixels(), want.pixels())


def test_other_import_errors(tmp_path):
    want = make_set()
    for content, message in (
        ({"weights": want.images}, "holds neither"),
        ([want.images], "holds neither"),
        (
            [want.images, want.labels + 7],
            r"cannot import .*run from 7 to 9, but there are 3 classes",
        ),
    ):
        with pytest.raises(UserError, match=message):
            import_set(save_pt(tmp_path / "a.pt", content), want.classes, want.preprocess)
    save_pt(tmp_path / "images_best.pt", want.images)
    with pytest.raises(UserError, match=r"labels_best.pt does not exist"):
        import_set(tmp_path, want.classes, want.preprocess)
    with pytest.raises(UserError, match="does not exist"):
        import_set(tmp_path / "nothing", want.classes, want.preprocess)
    np.savez(
        tmp_path / "a.npz",
        train_images=np.zeros((2, 4, 5, 3), np.float32),
        train_labels=np.zeros(2),
    )
    with pytest.raises(UserError, match=r"must be uint8 .* not float32 \[2, 4, 5, 3\]"):
        import_set(tmp_path / "a.npz", want.classes, want.preprocess)
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(UserError, match="train_images"):
        import_set(tmp_path / "a.npz", want.classes, want.preprocess)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["folder", "npz", "pt"])
def test_export_then_import(form, channels, tmp_path):
    want = make_set(count=9, channels=channels)
    path = tmp_path / {"folder": "pictures", "npz": "a.npz", "pt": "a.pt"}[form]
    export_set(want, path, form)
    got = import_set(path, want.classes, want.preprocess)
    order = torch.argsort(want.labels, stable=True) if form == "folder" else torch.arange(9)
    assert torch.equal(got.labels, want.labels[order])
    if form == "pt":
        assert torch.equal(got.images, want.images)
    else:
        assert torch.equal(got.pixels(), want.pixels()[order])


def test_npz_is_medmnist_and_equal_sets_give_equal_bytes(tmp_path):
    want = make_set(channels=1)
    for name in ("a.npz", "b.npz"):
        export_set(want, tmp_path / name, "npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as file:
        assert file["train_images"].shape == (6, 4, 5)
        assert file["train_labels"].shape == (6, 1)
        assert file["class_names"].tolist() == list(want.classes)


def test_soft_labels_survive_where_they_can(tmp_path):
    want = make_set(soft=True)
    for name in ("npz", "pt"):
        got = import_set(
            export_set(want, tmp_path / f"a.{name}", name), want.classes, want.preprocess
        )
        assert torch.equal(got.labels, want.labels)
    with pytest.raises(UserError, match="cannot hold soft labels"):
        export_set(want, tmp_path / "pictures", "folder")


def test_an_unknown_export_format(tmp_path):
    with pytest.raises(UserError, match="unknown export format `zip`"):
        export_set(make_set(), tmp_path / "x", "zip")
