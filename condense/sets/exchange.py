"""Read condensed sets from the files of other tools, and write such files.

It reads the published `.pt` layouts (DC, DSA, DM, DataDAM: a dict of experiments; MTT and others:
images and labels in two files), folders of pictures named by class, and MedMNIST-style `.npz`
files. It writes the same three formats. Code in a file is never run.
"""

import io
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.files import write_bytes
from condense.sets.condensed import CondensedSet

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


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

    Raises `UserError` for missing, damaged or unknown files, and for files that could only be read
    by unpickling.

    >>> from condense.data.preprocess import Standardize
    >>> preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> torch.save([torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])], "foreign.pt")
    >>> import_set("foreign.pt", ("zero", "one"), preprocess).labels
    tensor([0, 1])
    """
    path, classes = Path(path), tuple(classes)
    if not path.exists():
        raise UserError(f"nothing to import: {path} does not exist")
    if path.is_dir() and not (path / "images_best.pt").exists():
        images, labels = _read_folder(path, classes)
    elif path.is_dir() or path.suffix in (".pt", ".pth"):
        images, labels = _read_pt(path, experiment)
    elif path.suffix == ".npz":
        images, labels = _read_npz(path)
    else:
        raise UserError(
            f"cannot import {path}: give a .pt or .npz file, or a folder of pictures named by class"
        )
    provenance = {"imported": path.name, "experiment": experiment, "dataset": name}
    try:
        images = preprocess.apply(images) if images.dtype == torch.uint8 else images.float()
        labels = labels.float() if labels.is_floating_point() else labels.long()
        return CondensedSet(images, labels, classes, preprocess, provenance)
    except UserError as error:
        raise UserError(f"cannot import {path}: {error}") from None


def export_set(condensed: CondensedSet, path: str | Path, form: str) -> Path:
    """Write a set for other tools; returns `path`.

    `form` is one of

    - `folder`: PNG files in folders named by class, for hard labels only;
    - `npz`: uint8 `train_images` [N, H, W(, 3)], `train_labels` [N, 1] (soft labels: float32
      [N, C]) and `class_names`;
    - `pt`: `{"data": [[images, labels]]}` with preprocessed float32 images.

    The first two clip pixels to the range of a picture and do not store the preprocessing. Mosaics
    are written decoded.

    Raises `UserError` for an unknown format and for a folder that is not empty.

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
    EXPORTERS[form](condensed, path)
    return path


# ---- .pt


def _allowed() -> list[Any]:
    """What a `.pt` file may hold besides tensors and containers.

    Published files store accuracies as `numpy.float64`.
    """
    readers = []
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1, NumPy 2
        # This function replaces NumPy's, because `frombuffer` refuses Python objects. torch 2.6
        # recognises it by the attributes that are set below.
        def scalar(dtype: np.dtype, content: bytes) -> float | int:
            return np.frombuffer(content, dtype)[0].item()

        scalar.__module__, scalar.__qualname__, scalar.__name__ = module, "scalar", "scalar"
        readers.append(scalar)
    return [*readers, np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4"))]


def _load_pt(path: Path) -> Any:
    """The content of a `.pt` file, on the CPU, read by `torch.load` with `weights_only=True`."""
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, but its other half does: both are needed"
        ) from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise UserError(f"{path} is damaged or not a .pt file") from None
        raise UserError(
            f"{path} holds `{refused[1]}`, which only unpickling (running code from "
            "the file) could read: refused; save its images and labels as two tensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{path} is damaged or not a .pt file: "
            f"{str(error).splitlines()[0] if str(error) else 'empty'}"
        ) from None


def _read_pt(path: Path, experiment: int) -> tuple[Tensor, Tensor]:
    """Images and labels of any published `.pt` layout."""
    if path.is_dir():
        path = path / "images_best.pt"
    content = _load_pt(path)
    if isinstance(content, Tensor) and path.name.startswith("images"):
        content = [content, _load_pt(path.with_name(path.name.replace("images", "labels", 1)))]
    if isinstance(content, dict) and isinstance(content.get("data"), list | tuple):
        experiments = content["data"]
        if not 0 <= experiment < len(experiments):
            raise UserError(
                f"{path} holds {len(experiments)} experiments (from 0): "
                f"there is no experiment {experiment}"
            )
        content = experiments[experiment]
    match content:
        case [Tensor() as images, Tensor() as labels]:
            return images, labels
    raise UserError(
        f"{path} holds neither `data: [[images, labels], ...]` nor an images and a labels tensor"
    )


def _write_pt(condensed: CondensedSet, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"data": [[condensed.images, condensed.labels]]}, buffer)
    write_bytes(path, buffer.getvalue())


# ---- .npz


def _read_npz(path: Path) -> tuple[Tensor, Tensor]:
    """The images, uint8 [N, ch, H, W], and the labels of a MedMNIST-style `.npz` file."""
    try:
        with path.open("rb") as content:  # np.load would leave a damaged file open
            file = np.load(content, allow_pickle=False)
            images, labels = file["train_images"], file["train_labels"]
    except KeyError:
        raise UserError(
            f"{path} lacks the arrays `train_images` and `train_labels`: give a MedMNIST-style .npz"
        ) from None
    except Exception:  # a reader may raise anything on damaged bytes
        raise UserError(f"{path} is damaged, holds objects, or is not an .npz file") from None
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
    return pixels.contiguous(), torch.from_numpy(
        labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
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


# ---- folders of pictures


def _folder_name(name: str) -> str:
    """A class name as the name of a folder: `T-shirt/top` becomes `T-shirt_top`."""
    return re.sub(r"[^\w .,()+-]|^\.+", "_", name).strip() or "_"


def _folders(classes: Sequence[str]) -> dict[str, int]:
    """The class of each folder name. Raises `UserError` if two classes would share a folder."""
    folders = {_folder_name(name): c for c, name in enumerate(classes)}
    if len(folders) < len(classes):
        raise UserError("two classes have the same folder name: use the format npz or pt")
    return folders


def _read_folder(path: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, ch, H, W] and labels int64 [N] of class folders, by class, then by file."""
    folders = _folders(classes)
    for folder in sorted(entry.name for entry in path.iterdir() if entry.is_dir()):
        if folder not in folders:
            raise unknown(f"class folder in {path}", folder, folders)
    files = [
        (file, c)
        for folder, c in folders.items()
        if (path / folder).is_dir()
        for file in sorted((path / folder).iterdir())
        if file.suffix.lower() in PICTURES
    ]
    if not files:
        raise UserError(
            f"{path} has no pictures in folders named by "
            f"class ({', '.join(list(folders)[:3])}, ...)"
        )
    pixels = [_read_picture(file) for file, _ in files]
    for (file, _), one in zip(files, pixels, strict=True):
        if one.shape != pixels[0].shape:
            raise UserError(
                f"{file} is {list(one.shape)} (ch, H, W), but {files[0][0]} is "
                f"{list(pixels[0].shape)}"
            )
    return torch.stack(pixels), torch.tensor([c for _, c in files])


def _read_picture(file: Path) -> Tensor:
    """uint8 [1 or 3, H, W]."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            pixels = np.array(picture if picture.mode == "L" else picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{file} is damaged or not a picture: {error}") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0).contiguous()


def _write_folder(condensed: CondensedSet, path: Path) -> None:
    from PIL import Image

    if condensed.soft:
        raise UserError("a folder of pictures cannot hold soft labels: use the format npz or pt")
    folders = list(_folders(condensed.classes))
    if condensed.shape[0] not in (1, 3):
        raise UserError(
            f"images of {condensed.shape[0]} channels "
            "cannot be stored as pictures: use the format pt"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
            root = Path(beside) / "pictures"
            for index, (pixels, c) in enumerate(
                zip(condensed.pixels(), condensed.labels.tolist(), strict=True)
            ):
                folder = root / folders[c]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.movedim(0, -1).squeeze(-1).numpy()).save(
                    folder / f"{index:05}.png"
                )
            os.replace(root, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


EXPORTERS: dict[str, Callable[[CondensedSet, Path], None]] = {
    "folder": _write_folder,
    "npz": _write_npz,
    "pt": _write_pt,
}
