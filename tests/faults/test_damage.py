"""Damaged files of every binary format: refused in one line, or read as they were.

Random bytes hardly get past the first check of such a format. A whole file with a few bytes
changed, removed or put in does.
"""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from condense import UserError, load_dataset
from condense.data.foreign import picture, read_arrays, read_tensors
from condense.data.parquet import hugging_face
from condense.data.preprocess import Whiten, make_preprocess
from condense.files import load_tensor, load_tensors, save_tensors
from condense.methods.selection import select
from condense.sets import transforms
from condense.sets.condensed import CondensedSet
from condense.sets.exchange import export_set, read_set
from condense.study.trials import Key, Trial, Trials, reading

FUZZ = settings(
    max_examples=int(os.environ.get("INPUTS", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


TRANSFORM = Whiten(mean=torch.zeros(1, 2, 2), matrix=torch.eye(4))
BESIDE = f"zca-{TRANSFORM.fingerprint}.safetensors"
"""A transform in a file of its own, beside the sets that were made under it."""


def _picture(path: Path) -> bytes:
    with picture(path) as image:
        return image.tobytes()


def _set(path: Path) -> str:
    return read_set(path).fingerprint


def _transform(path: Path) -> str:
    kind, fingerprint = path.stem.split("-")
    return transforms.find(path.parent, kind, fingerprint).fingerprint


def _dataset(path: Path) -> str:
    return hugging_face(f"hf:{path}", None).fingerprint


def _rows(path: Path) -> Any:
    with reading(path) as store:
        return {key: trial.result for key, trial in store.find("demo").items()}


def _arrays(path: Path) -> Any:
    arrays = read_arrays(path, ("train_images", "train_labels"))
    return {name: array.tobytes() for name, array in arrays.items()}


CHECKED: dict[str, Callable[[Path], Any]] = {
    "set.safetensors": lambda path: CondensedSet.load(path).fingerprint,
    "set.npz": _set,
    "set.pt": _set,
    "arrays.npz": _arrays,
    BESIDE: _transform,
    "trials.sqlite": _rows,
}
"""Formats with checksums, and what a file of each holds: what is read must be what was written."""
UNCHECKED: dict[str, Callable[[Path], Any]] = {
    "picture.png": _picture,
    "picture.jpg": _picture,
    "tensors.safetensors": load_tensors,
    "weights.safetensors": lambda path: load_tensor(path, "weights"),
    "tensors.pt": read_tensors,
    "train.parquet": _dataset,
}
"""Formats that let some damage pass: it must not end in anything but a `UserError`."""


@cache
def whole(name: str) -> bytes:
    """An undamaged file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        if name.startswith("picture"):
            Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
        elif name == "train.parquet":
            _write_rows(path)
        elif name == BESIDE:
            transforms.keep(TRANSFORM, Path(folder))
        elif name == "trials.sqlite":
            with Trials(path) as store:
                for seed in range(3):
                    store.add(Trial(Key.of("demo", seed=seed), {"accuracy": 0.5}, 1.0, "here"))
        else:
            digits = load_dataset("digits")
            preprocess = make_preprocess("standard", digits)
            condensed = select("random", digits, 1, preprocess=preprocess, seed=0)
            if name == "tensors.safetensors":
                save_tensors(path, {"images": condensed.images}, {"a": "b"})
            elif name == "weights.safetensors":  # of an expert, or of a pool's network
                save_tensors(path, {"weights": condensed.images}, {})
            elif name == "set.safetensors":
                condensed.save(path)
            else:
                export_set(condensed, path, path.suffix[1:])
        return path.read_bytes()


def _write_rows(path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    png = {"bytes": whole("picture.png"), "path": "0.png"}
    parquet.write_table(pa.table({"image": [png] * 6, "label": [0, 1] * 3}), path)


@st.composite
def damaged(draw: st.DrawFn, undamaged: bytes) -> bytes:
    """The file with up to four bytes changed, a part removed, or bytes put in."""
    content = bytearray(undamaged)
    at = st.integers(1, len(content) - 1)  # an empty file is a store without trials
    how = draw(st.sampled_from(["change", "cut", "remove", "insert"]))
    if how == "change":
        for place in draw(st.lists(at, min_size=1, max_size=4)):
            content[place] = draw(st.integers(0, 255))
    elif how == "cut":
        del content[draw(at) :]
    else:
        place = draw(at)
        end = place + draw(st.integers(1, 64)) if how == "remove" else place
        content[place:end] = b"" if how == "remove" else draw(st.binary(min_size=1, max_size=16))
    return bytes(content)


@pytest.mark.parametrize("name", sorted(CHECKED | UNCHECKED))
@given(data=st.data())
@FUZZ
def test_a_damaged_file_is_refused_or_read_as_it_was(name: str, data: st.DataObject) -> None:
    undamaged, reader = whole(name), (CHECKED | UNCHECKED)[name]
    content = data.draw(damaged(undamaged))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(undamaged)
        expected = reader(path)
        path.write_bytes(content)
        said = ""
        try:
            found = reader(path)
        except UserError as error:
            said = str(error)
        assert "\n" not in said
        assert said or name in UNCHECKED or found == expected
