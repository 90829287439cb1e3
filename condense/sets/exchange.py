"""Read condensed sets from the files of other tools, and write such files.

Each format is a file in `condense.sets.formats`. Code in a file is never run, and what is written
stays inside its folder, whatever the classes are called. Every export has a card, which says what
is in it and how it is read (`condense.sets.card`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from condense.data.parquet import parquet_files
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.reading import open_file
from condense.sets.card import Result, card
from condense.sets.condensed import FILE_NAME, CondensedSet
from condense.sets.formats import ddranking, hugging_face, npz, pictures, pt, tensors
from condense.sets.formats.base import Read, whole
from condense.sets.provenance import version
from condense.settings import within
from condense.writing import check_new, replacing_folder, write_bytes

CARD = "README.md"
"""The card in an exported folder; that of `a.npz` is beside it, as `a.npz.md`."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of exports.

    >>> EXPORTERS["npz"].folder, EXPORTERS["hf"].folder
    (False, True)
    """

    write: Callable[[CondensedSet, Path], None]
    """Writes a set without mosaics: a file, or what belongs into a new folder."""
    folder: bool
    """Whether it is a folder; the set itself is then beside the files, in `set.safetensors`."""


EXPORTERS = {
    "folder": Format(write=pictures.write_folder, folder=True),
    "hf": Format(write=hugging_face.write, folder=True),
    "ddranking": Format(write=ddranking.write, folder=True),
    "npz": Format(write=npz.write, folder=False),
    "pt": Format(write=pt.write, folder=False),
    "safetensors": Format(write=tensors.write, folder=False),
}
"""The formats by name."""
_ALSO = {"huggingface": "hf", "parquet": "hf", "imagefolder": "folder", "png": "folder"}
"""What formats are also called."""


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
        - a pair `images*.pt` and `labels*.pt`: the first file, or a folder with `images_best.pt`
          or, as of DD-Ranking, `images.pt`,
        - a folder of pictures in class folders,
        - a folder of Parquet files, as Hugging Face `datasets` writes them,
        - an `.npz` file with uint8 `train_images` and `train_labels`,
        - a `.safetensors` file with the tensors `images` and `labels`.
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
        stored = whole(path, read).preprocess.name if "preprocess" in read.own else None
        if stored not in (None, preprocess.name):
            raise UserError(f"its images are under `{stored}`, not `{preprocess.name}`")
        images, labels = read.images, read.labels
        images = preprocess.apply(images) if images.dtype == torch.uint8 else images.float()
        labels = labels.float() if labels.is_floating_point() else labels.long()
        if read.names is not None:
            labels = hugging_face.matched(labels, read.names, classes)
        condensed = CondensedSet(images, labels, classes, preprocess, provenance)
        _check_classes(condensed, name)
        if read.images.dtype != torch.uint8:
            _check_values(condensed)
    return condensed


def read_set(path: str | Path) -> CondensedSet:
    """The set that is at `path`, wherever the files there say all of it.

    That is a run folder, a set file, the name of a published set, or what `export_set` wrote.
    Raises `UserError` for a file of another tool, which has to be imported first.

    >>> condensed = CondensedSet.load("cifar10-ipc1-best")
    >>> exported = read_set(export_set(condensed, "ten.pt", "pt"))
    >>> exported.fingerprint == condensed.decoded().fingerprint
    True
    """
    path = Path(path)
    if path.is_file() and path.suffix in (*_PT, ".npz"):
        own = npz.read(path, own=True) if path.suffix == ".npz" else pt.read(path, experiment=0)
        return whole(path, own)
    ours = any((path / name).exists() for name in (FILE_NAME, "run.json"))
    if path.is_dir() and not ours and (holds := _holds(path)):
        raise UserError(
            f"{path} is {holds}, without {FILE_NAME}: import it first, by `condensekit import "
            "--preprocess NAME --dataset NAME`"
        )
    return CondensedSet.load(path)


def export_set(
    condensed: CondensedSet,
    path: str | Path,
    form: str,
    *,
    force: bool = False,
    results: Sequence[Result] = (),
) -> Path:
    """Write a set for other tools; returns `path`.

    `form` is one of

    - `hf`: a folder of Hugging Face `datasets`, with a Parquet file of pictures, labels and the
      exact floats; needs pyarrow;
    - `ddranking`: a folder with the files that DD-Ranking scores;
    - `folder`: a folder with PNG files in folders named by class, for hard labels only. A name that
      no folder can have is changed, and a number tells equal names apart; `classes.json` has them;
    - `npz`: a file with uint8 `train_images` [N, H, W(, 3)], `train_labels` [N, 1] (soft labels:
      float32 [N, C]) and `class_names`;
    - `pt`: a file with `{"data": [[images, labels]]}` of preprocessed float32 images;
    - `safetensors`: a file with `images` and `labels`, as this package writes it.

    The pixels of `folder` and `npz`, and the pictures of `hf`, are clipped and rounded to 8 bits;
    all else keeps every bit. Mosaics are written decoded. A folder has the set itself beside its
    files, and a card, README.md; the card of `a.npz` is beside it, as `a.npz.md`. `results` is what
    was measured of the set, for the card. With `force`, a file that is there is replaced.

    Raises `UserError` for an unknown format, for a file that is there, for a folder that is not
    empty, and for what the format cannot hold.

    >>> from condense.data.preprocess import Standardize
    >>> preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    >>> condensed = CondensedSet(images, labels, ("zero", "one"), preprocess, {})
    >>> folder = export_set(condensed, "pictures", "folder")
    >>> sorted(file.as_posix() for file in folder.rglob("*.*"))
    ['pictures/README.md', 'pictures/classes.json', 'pictures/one/00001.png',
     'pictures/set.safetensors', 'pictures/zero/00000.png']
    """
    if form not in EXPORTERS:
        raise unknown("export format", form, EXPORTERS, _ALSO)
    path, exporter = Path(path), EXPORTERS[form]
    text = card(condensed, form, path.name, results)
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"cannot export to {path}: the folder is not empty, choose another")
    if exporter.folder:
        with replacing_folder(path) as beside:
            exporter.write(condensed.decoded(), beside)
            condensed.save(beside)
            write_bytes(beside / CARD, text)
        return path
    beside = path.with_name(f"{path.name}.md")
    for file in (path, beside):
        check_new(file, force=force)
    exporter.write(condensed.decoded(), path)
    write_bytes(beside, text)
    return path


# ---- what is read

_PT = (".pt", ".pth")


def _holds(path: Path) -> str:
    """What kind of a set of another tool a folder holds, in words; empty if it is none."""
    if any((path / name).exists() for name in pt.PAIRS):
        return "a folder of images and labels as .pt files"
    if parquet_files(path):
        return "a folder of Parquet files"
    pictured = any(file.suffix.lower() in pictures.PICTURES for file in path.glob("*/*"))
    return "a folder of pictures" if pictured else ""


def _content(path: Path, classes: Sequence[str], experiment: int) -> Read:
    """What `path` holds, in whichever format."""
    if not path.exists():
        raise UserError(f"nothing to import: {path} does not exist")
    if path.suffix in _PT or any((path / name).exists() for name in pt.PAIRS):
        return pt.read(path, experiment)
    if path.is_dir() and parquet_files(path):
        return hugging_face.read(path)
    if path.is_dir():
        images, labels, files = pictures.read_folder(path, classes)
        return Read(images=images, labels=labels, files=files)
    if path.suffix == ".npz":
        return npz.read(path)
    if path.suffix == ".safetensors":
        return tensors.read(path)
    raise UserError(
        f"cannot import {path}: give a .pt or .npz file, or a folder of pictures named by class, "
        "or of Parquet files, or a .safetensors file"
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
