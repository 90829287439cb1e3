"""Sets as folders of pictures: one folder for each class, which is named by it.

A class can be called anything, and a folder cannot. The file `classes.json` in an exported folder
says which class each folder in it is of.
"""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condense.data.foreign import check_expanded, eight_bits, opaque, picture, upright
from condense.errors import UserError, unknown
from condense.reading import read_json
from condense.sets.condensed import CondensedSet
from condense.settings import read_value, within
from condense.writing import write_json

NAMES = "classes.json"
"""A file with the class of each folder, in the order of the classes."""
_BESIDE = (NAMES, "readme.md", "set.safetensors")
"""What else is in an exported folder, where names are compared."""
_INSIDE = re.compile(r"[^./\0][^/\0]*")
"""The names of folders that lie in the exported one, and are not hidden."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder for each class: its name if a folder can have it, told apart by a number.

    A name that has to be changed gives way to one that need not be. Names that some file systems
    take for the same, as those that differ only in case, are told apart as well.

    >>> folder_names(("cat", "Cat", "T-shirt/top", "T-shirt_top", "..", "été"))
    ['cat', 'Cat (2)', 'T-shirt_top (2)', 'T-shirt_top', '_.', 'été']
    """
    wanted = [_folder_name(name) for name in classes]
    folders, taken = list(wanted), set(_BESIDE)
    for c in sorted(range(len(classes)), key=lambda c: wanted[c] != classes[c]):
        number = 1
        while _seen_as(folders[c]) in taken:
            number += 1
            folders[c] = f"{wanted[c]} ({number})"
        taken.add(_seen_as(folders[c]))
    return folders


def _folder_name(name: str) -> str:
    """A class name as a folder can have it: no separator, not hidden, of up to 200 bytes."""
    printable = "".join(
        "_" if one == "/" or unicodedata.category(one) in ("Cc", "Cs") else one for one in name
    )
    visible = "_" + printable[1:] if printable.startswith(".") else printable
    return visible.encode()[:200].decode(errors="ignore").strip() or "_"


def _seen_as(folder: str) -> str:
    """What folders have in common that a file system may take for the same."""
    return unicodedata.normalize("NFKC", folder).casefold()


def _folders(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """The class of each folder in `path`: as `classes.json` there says, or else by its name."""
    if not (path / NAMES).exists():
        return {name: c for c, name in enumerate(folder_names(classes))}
    with within(str(path / NAMES)):
        names = read_value(dict[str, str], read_json(path / NAMES), "folders")
    if tuple(names.values()) != tuple(classes):
        raise UserError(
            f"{path / NAMES} names the classes {', '.join(list(names.values())[:3])}, ...: they "
            f"are not those of the dataset, {', '.join(classes[:3])}, ..."
        )
    if strange := [name for name in names if not _INSIDE.fullmatch(name)]:
        raise UserError(f"{path / NAMES}: `{strange[0]}` is not the name of a folder in {path}")
    return {folder: c for c, folder in enumerate(names)}


def read_folder(path: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor, list[Path]]:
    """The pictures in class folders: images uint8 [N, ch, H, W], labels int64 [N], and the files.

    They are in the order of the classes, then of the names of the files. A picture is turned as its
    EXIF orientation says. Raises `UserError` for a folder of no class, and for pictures that are
    damaged or not all of one size.

    >>> from PIL import Image
    >>> for name in ("cat", "dog"):
    ...     Path("pets", name).mkdir(parents=True)
    ...     Image.new("L", (8, 8)).save(Path("pets", name, "1.png"))
    >>> read_folder(Path("pets"), ("cat", "dog"))[1]
    tensor([0, 1])
    """
    folders = _folders(path, classes)
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata
        found = [file for file, _ in files]
        first = _read_picture(found[0])
        check_expanded(
            path, len(files) * first.nbytes, sum(file.stat().st_size for file, _ in files)
        )
        pixels = same_size(map(_read_picture, found), found)
    labels = torch.tensor([c for _, c in files])
    return pixels, labels, found


def _read_picture(file: Path) -> Tensor:
    """uint8 [1 or 3, H, W]."""
    with picture(file) as image:
        seen = eight_bits(opaque(upright(image)))
        pixels = np.array(seen if seen.mode == "L" else seen.convert("RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0).contiguous()


def write_folder(condensed: CondensedSet, path: Path) -> None:
    """Write PNG files into a folder for each class in `path`, and `classes.json` beside them.

    Raises `UserError` for soft labels and for images that are no pictures.

    >>> from condense.data.preprocess import Standardize
    >>> preprocess = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    >>> write_folder(CondensedSet(images, labels, ("a/b", "a?b"), preprocess, {}), Path("two"))
    >>> sorted(entry.name for entry in Path("two").iterdir())
    ['a?b', 'a_b', 'classes.json']
    """
    if condensed.soft:
        raise UserError("a folder of pictures cannot hold soft labels: use the format npz or pt")
    check_picture(condensed)
    folders = folder_names(condensed.classes)
    write_json(path / NAMES, dict(zip(folders, condensed.classes, strict=True)))
    labelled = zip(condensed.pixels(), condensed.labels.tolist(), strict=True)
    for index, (pixels, c) in enumerate(labelled):
        (path / folders[c]).mkdir(exist_ok=True)
        as_picture(pixels).save(path / folders[c] / f"{index:05}.png")


def check_picture(condensed: CondensedSet) -> None:
    """Raise a `UserError` unless the images of a set have 1 or 3 channels, as pictures have.

    >>> check_picture(CondensedSet.load("cifar10-ipc1-best"))
    """
    if condensed.shape[0] not in (1, 3):
        raise UserError(
            f"images of {condensed.shape[0]} channels "
            "cannot be stored as pictures: use the format pt"
        )


def as_picture(pixels: Tensor) -> Image.Image:
    """Pixels uint8 [1 or 3, H, W] as a picture.

    >>> as_picture(torch.zeros(3, 4, 5, dtype=torch.uint8)).size
    (5, 4)
    """
    return Image.fromarray(pixels.movedim(0, -1).squeeze(-1).numpy())


def same_size(images: Iterable[Tensor], names: Sequence[Any]) -> Tensor:
    """The images, uint8 [ch, H, W] each, as one tensor. Raises `UserError` for unequal shapes.

    >>> same_size([torch.zeros(1, 8, 8), torch.zeros(1, 8, 9)], ("1.png", "2.png"))
    Traceback (most recent call last):
    condense.errors.UserError: 2.png is [1, 8, 9] (ch, H, W), but 1.png is [1, 8, 8]
    """
    kept: list[Tensor] = []
    for one, name in zip(images, names, strict=True):
        if kept and one.shape != kept[0].shape:
            raise UserError(
                f"{name} is {list(one.shape)} (ch, H, W), but {names[0]} is {list(kept[0].shape)}"
            )
        kept.append(one)
    return torch.stack(kept)
