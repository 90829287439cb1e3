"""Read condensed sets from the files of other tools, and write such files.

It reads the published `.pt` layouts (DC, DSA, DM, DataDAM: a dict of experiments; MTT and others:
images and labels in two files), folders of pictures named by class, and MedMNIST-style `.npz`
files. It writes the same three formats. Code in a file is never run, and what is written stays
inside its folder, whatever the classes are called.
"""

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.data.foreign import dense, read_arrays, read_tensors
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.reading import open_file
from condense.sets.condensed import CondensedSet
from condense.sets.pictures import read_folder, write_folder
from condense.sets.provenance import version
from condense.settings import within
from condense.writing import check_new, write_bytes


def import_set(
    path: str | Path,
    classes: Sequence[str],
    preprocess: Preprocess,
    experiment: int = 0,
    name: str = "",
) -> CondensedSet:
    """Read a set that another tool wrote.

    Parameters
    ----------
    path: one of
        - a `.pt` file with `{"data": [[images, labels], ...]}`,
        - a `.pt` file with two tensors,
        - a pair `images*.pt` and `labels*.pt`: the first file, or a folder with `images_best.pt`,
        - a folder of pictures in class folders,
        - an `.npz` file with uint8 `train_images` and `train_labels`.
    classes: the names of the classes.
    preprocess: how the images were preprocessed, which such files do not say. It is applied to
        uint8 pixels; float images are taken to be preprocessed already.
    experiment: which of several experiments in a `.pt` file to read.
    name: the name of the dataset, for the provenance.

    The provenance keeps the digest of the file (of several, that of the list `sha256sum` prints),
    and the accuracies that it publishes.

    Raises `UserError` for missing, damaged or unknown files, for files that could only be read by
    unpickling, and for a set that has no images of some class, or whose values are not those of
    preprocessed images.

    >>> from condense.data.preprocess import Standardize
    >>> preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> torch.save([torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])], "foreign.pt")
    >>> import_set("foreign.pt", ("zero", "one"), preprocess).labels
    tensor([0, 1])
    """
    path, classes = Path(path), tuple(classes)
    read = _content(path, classes, experiment)
    provenance = {
        "condensekit": version(),
        "imported": path.name,
        "sha256": _sha256(read.files),
        "experiment": experiment,
        "dataset": name,
    } | ({"accuracies": read.accuracies} if read.accuracies else {})
    with within(f"cannot import {path}"):
        images, labels = read.images, read.labels
        images = preprocess.apply(images) if images.dtype == torch.uint8 else images.float()
        labels = labels.float() if labels.is_floating_point() else labels.long()
        condensed = CondensedSet(images, labels, classes, preprocess, provenance)
        _check_classes(condensed, name)
        if read.images.dtype != torch.uint8:
            _check_values(condensed)
    return condensed


def export_set(
    condensed: CondensedSet, path: str | Path, form: str, *, force: bool = False
) -> Path:
    """Write a set for other tools; returns `path`.

    `form` is one of

    - `folder`: PNG files in folders named by class, for hard labels only. A name that no folder
      can have is changed, and a number tells equal names apart; `classes.json` has the names;
    - `npz`: uint8 `train_images` [N, H, W(, 3)], `train_labels` [N, 1] (soft labels: float32
      [N, C]) and `class_names`;
    - `pt`: `{"data": [[images, labels]]}` with preprocessed float32 images.

    The first two clip pixels to the range of a picture and do not store the preprocessing. Mosaics
    are written decoded. With `force`, a file that is there is replaced.

    Raises `UserError` for an unknown format, for a file that is there, and for a folder that is not
    empty.

    >>> from condense.data.preprocess import Standardize
    >>> preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    >>> condensed = CondensedSet(images, labels, ("zero", "one"), preprocess, {})
    >>> folder = export_set(condensed, "pictures", "folder")
    >>> sorted(file.as_posix() for file in folder.rglob("*.png"))
    ['pictures/one/00001.png', 'pictures/zero/00000.png']
    """
    if form not in EXPORTERS:
        raise unknown("export format", form, EXPORTERS)
    condensed = condensed.decoded()
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"cannot export to {path}: the folder is not empty, choose another")
    if form != "folder":
        check_new(path, force=force)
    EXPORTERS[form](condensed, path)
    return path


# ---- what is read


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What a file, or several, hold of a set."""

    images: Tensor
    """[N, ch, H, W], uint8 pixels or preprocessed floats."""
    labels: Tensor
    files: list[Path]
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    """The published accuracies, by the name of the network."""


def _content(path: Path, classes: Sequence[str], experiment: int) -> _Read:
    """What `path` holds, in whichever format."""
    if not path.exists():
        raise UserError(f"nothing to import: {path} does not exist")
    if path.is_dir() and not (path / "images_best.pt").exists():
        images, labels, files = read_folder(path, classes)
        return _Read(images=images, labels=labels, files=files)
    if path.is_dir() or path.suffix in (".pt", ".pth"):
        return _read_pt(path, experiment)
    if path.suffix == ".npz":
        return _read_npz(path)
    raise UserError(
        f"cannot import {path}: give a .pt or .npz file, or a folder of pictures named by class"
    )


def _check_classes(condensed: CondensedSet, dataset: str) -> None:
    """Raise a `UserError` unless a set of hard labels has images of every class."""
    if condensed.soft:
        return
    absent = [
        name
        for name, count in zip(condensed.classes, condensed.counts().tolist(), strict=True)
        if not count
    ]
    if absent:
        raise UserError(
            f"its {len(condensed)} images are of {len(condensed.classes) - len(absent)} classes, "
            f"{dataset or 'the dataset'} has {len(condensed.classes)} (none of `{absent[0]}`, for "
            "example): name the dataset it was made from"
        )


def _check_values(condensed: CondensedSet) -> None:
    """Raise a `UserError` for images that cannot have been preprocessed.

    Preprocessed images have values on both sides of zero. Undone, most of their values are those of
    a picture, 0 to 1, or not far from it.
    """
    images = condensed.images
    low, high = images.min().item(), images.max().item()
    pixels = condensed.preprocess.unapply(images)
    near = ((pixels > -1) & (pixels < 2)).float().mean().item()
    if (low >= 0 and high > 0) or near < 0.5:
        raise UserError(
            f"its values, {low:.3g} to {high:.3g}, are not those of images under "
            f"`{condensed.preprocess.name}`: preprocess them, or store uint8 pixels"
        )


def _sha256(files: Sequence[Path]) -> str:
    """The digest of a file; of several, that of the list that `sha256sum` prints, by name."""
    digests = []
    for file in files:
        with open_file(file) as content:
            state = hashlib.sha256()
            for block in iter(partial(content.read, 1 << 20), b""):
                state.update(block)
            digests.append(state.hexdigest())
    if len(files) == 1:
        return digests[0]
    lines = [f"{one}  {file.name}\n" for one, file in zip(digests, files, strict=True)]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


# ---- .pt


def _read_pt(path: Path, experiment: int) -> _Read:
    """Images and labels of any published `.pt` layout."""
    files = [path / "images_best.pt" if path.is_dir() else path]
    content, accuracies = read_tensors(files[0]), {}
    if isinstance(content, Tensor) and files[0].name.startswith("images"):
        files.append(files[0].with_name(files[0].name.replace("images", "labels", 1)))
        if not files[1].exists():
            raise UserError(f"{files[1]} does not exist, but its other half does: both are needed")
        content = [content, read_tensors(files[1])]
    if isinstance(content, dict) and isinstance(content.get("data"), list | tuple):
        accuracies = _accuracies(content.get("accs_all_exps"))
        experiments = content["data"]
        if not 0 <= experiment < len(experiments):
            raise UserError(
                f"{path} holds {len(experiments)} experiments (from 0): "
                f"there is no experiment {experiment}"
            )
        content = experiments[experiment]
    match content:
        case [Tensor() as images, Tensor() as labels]:
            images, labels = (dense(path, one) for one in (images, labels))
        case _:
            raise UserError(
                f"{path} holds neither `data: [[images, labels], ...]` nor an images and a labels "
                "tensor"
            )
    if (images.dtype != torch.uint8 and not images.is_floating_point()) or labels.is_complex():
        raise UserError(
            f"{path} holds images of {images.dtype} and labels of {labels.dtype}: images must be "
            "uint8 pixels or preprocessed floats, labels numbers"
        )
    return _Read(images=images, labels=labels, files=files, accuracies=accuracies)


def _accuracies(published: Any) -> dict[str, list[float]]:
    """The accuracies by network, of all experiments, where a file has them as DC publishes them."""
    if not isinstance(published, dict):
        return {}
    return {
        name: [float(value) for value in values]
        for name, values in published.items()
        if isinstance(name, str)
        and isinstance(values, list)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    }


def _write_pt(condensed: CondensedSet, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"data": [[condensed.images, condensed.labels]]}, buffer)
    write_bytes(path, buffer.getvalue())


# ---- .npz


def _read_npz(path: Path) -> _Read:
    """The images, uint8 [N, ch, H, W], and the labels of a MedMNIST-style `.npz` file."""
    arrays = read_arrays(path, ("train_images", "train_labels"))
    if len(arrays) < 2:
        raise UserError(
            f"{path} lacks the arrays `train_images` and `train_labels`: give a MedMNIST-style .npz"
        )
    images, labels = arrays["train_images"], arrays["train_labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"`train_images` of {path} must be uint8 [N, H, W] or [N, H, W, ch], not "
            f"{images.dtype} {list(images.shape)}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iuf":
        raise UserError(f"`train_labels` of {path} must be numbers, not {labels.dtype}")
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
    kind = np.float32 if labels.dtype.kind == "f" else np.int64
    return _Read(
        images=pixels.contiguous(), labels=torch.from_numpy(labels.astype(kind)), files=[path]
    )


def _write_npz(condensed: CondensedSet, path: Path) -> None:
    pixels = condensed.pixels().movedim(1, -1).numpy()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        train_images=pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
        train_labels=(condensed.labels if condensed.soft else condensed.labels[:, None]).numpy(),
        class_names=np.array(condensed.classes),
    )
    write_bytes(path, buffer.getvalue())


EXPORTERS: dict[str, Callable[[CondensedSet, Path], None]] = {
    "folder": write_folder,
    "npz": _write_npz,
    "pt": _write_pt,
}
