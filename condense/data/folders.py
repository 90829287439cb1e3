"""Datasets of image files: ImageNet and its subsets, Tiny ImageNet, a user's own folder."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from condense.data.decoded import cached_pixels
from condense.data.images import Dataset, Images, second_of_five
from condense.errors import UserError, advice
from condense.progress import heard
from condense.reading import read_text, usable_path
from condense.words import counted

# The subsets of ImageNet as {wnid: name}, in the order of the DataDAM paper, Table 9.
IMAGENET_SUBSETS = {
    "imagenette": {
        "n01440764": "tench",
        "n02102040": "English springer",
        "n02979186": "cassette player",
        "n03000684": "chain saw",
        "n03028079": "church",
        "n03394916": "French horn",
        "n03417042": "garbage truck",
        "n03425413": "gas pump",
        "n03445777": "golf ball",
        "n03888257": "parachute",
    },
    "imagewoof": {
        "n02096294": "Australian terrier",
        "n02093754": "Border terrier",
        "n02111889": "Samoyed",
        "n02088364": "beagle",
        "n02086240": "Shih-Tzu",
        "n02089973": "English foxhound",
        "n02087394": "Rhodesian ridgeback",
        "n02115641": "dingo",
        "n02099601": "golden retriever",
        "n02105641": "Old English sheepdog",
    },
    "imagesquawk": {
        "n01806143": "peacock",
        "n02007558": "flamingo",
        "n01818515": "macaw",
        "n02051845": "pelican",
        "n02056570": "king penguin",
        "n01614925": "bald eagle",
        "n01843383": "toucan",
        "n01518878": "ostrich",
        "n01860187": "black swan",
        "n01819313": "sulphur-crested cockatoo",
    },
}

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class _Files:
    """Image files, with the class index of each."""

    paths: list[str]
    labels: list[int]

    def where(self, chosen: list[bool]) -> "_Files":
        kept = [i for i, is_kept in enumerate(chosen) if is_kept]
        return _Files([self.paths[i] for i in kept], [self.labels[i] for i in kept])


def folder(name: str, home: Path | None, resolution: int) -> Dataset:
    """The user's images that `name`, `folder:PATH`, points to.

    They are read from PATH/train/<class> and PATH/test/<class> (or val). If there is no folder
    `train`, they are read from PATH/<class> and split by `second_of_five`. `home` is the folder for
    the cache of decoded pixels; by default it is the user's cache folder.

    >>> from PIL import Image
    >>> for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
    ...     Path("pets", name).parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("RGB", (40, 30), "red").save(Path("pets", name))
    >>> pets = folder("folder:pets", home=Path("pets"), resolution=16)
    >>> pets.classes, pets.shape, len(pets.train), len(pets.test)
    (('cat', 'dog'), (3, 16, 16), 2, 2)
    """
    source = usable_path(name.removeprefix("folder:")).resolve()
    top = source / "train" if _subfolders(source / "train") else source
    classes = _subfolders(top)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if not classes:
        raise UserError(
            f"{source}: no class folders; "
            "expected PATH/train/<class> and PATH/test/<class>, or PATH/<class>"
        )
    if len(classes) == 1:
        raise _one_class(top, classes[0])
    train = _files(top, classes)
    tests = [
        source / split for split in ("test", "val") if top != source and _subfolders(source / split)
    ]
    if tests:
        if extra := sorted(set(_subfolders(tests[0])) - set(classes)):
            raise UserError(f"{tests[0] / extra[0]}: class `{extra[0]}` has no folder in {top}")
        test = _files(tests[0], classes)
    else:
        held = second_of_five(torch.tensor(train.labels))
        if not held.any():
            raise UserError(
                f"{top}: one image a class leaves none for testing; "
                f"add images, or a folder {source / 'test'}"
            )
        train, test = train.where((~held).tolist()), train.where(held.tolist())
    dataset = _decoded(name, source, classes, (train, test), resolution, None, home)
    if heard() and (others := left_out(source, [*train.paths, *test.paths])):
        print(f"left out: {others}", file=sys.stderr)
    return dataset


def left_out(source: Path, taken: Sequence[str]) -> str:
    """How many files below `source` are not among those `taken`, in words; empty if there are none.

    A picture that could be read but lies outside the folders of the classes is loose. Hidden files
    do not count.

    >>> from PIL import Image
    >>> for name in ("some/cat/1.png", "some/2.png", "some/cat/notes.txt"):
    ...     Path(name).parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("RGB", (4, 3)).save(name, "PNG")
    >>> left_out(Path("some"), ["some/cat/1.png"])
    '1 .txt, 1 loose picture'
    """
    known, loose, others = set(taken), 0, Counter[str]()
    for parent, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or os.path.join(parent, name) in known:
                continue
            if name.lower().endswith(_SUFFIXES):
                loose += 1
            else:
                others[Path(name).suffix.lower() or "without a suffix"] += 1
    parts = [f"{count} {suffix}" for suffix, count in others.most_common()]
    return ", ".join([*parts, *([counted(loose, "loose picture")] if loose else [])])


def _one_class(top: Path, name: str) -> UserError:
    """The error for a folder with a single class folder, which often holds the classes itself."""
    inside = _subfolders(top / name)
    found = f"which holds the folders {', '.join(inside[:3])}, ...: is" if inside else "and"
    asked = f" folder:{top / name} meant?" if inside else " a dataset has two classes at least"
    return UserError(f"{top}: the only class folder is `{name}`, {found}{asked}")


def imagenet(name: str, root: Path, resolution: int) -> Dataset:
    """ImageNet-1K or one of its subsets, from folders train/<wnid> and val/<wnid>.

    They are looked for in `root`, `root`/`name` and `root`/imagenet.

    >>> imagenet("imagenette", Path("empty"), resolution=128)
    Traceback (most recent call last):
    condense.errors.UserError: empty/train: missing; ...
    """
    places = [root, root / name, root / "imagenet"]
    source = next((place.resolve() for place in places if _subfolders(place / "train")), None)
    if source is None:
        raise UserError(
            f"{root / 'train'}: missing; give with --data-dir the folder that has ImageNet's "
            "train/<wnid>, val/<wnid>"
        )
    if name in IMAGENET_SUBSETS:
        wnids, classes = list(IMAGENET_SUBSETS[name]), list(IMAGENET_SUBSETS[name].values())
    else:
        from torchvision.models import ResNet18_Weights

        wnids = _subfolders(source / "train")
        classes = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        if len(wnids) != len(classes):
            raise UserError(
                f"{source / 'train'}: expected 1000 class folders, found {len(wnids)}; for fewer "
                f"use folder:{source}"
            )
    splits = _files(source / "train", wnids), _files(source / "val", wnids)
    return _decoded(name, source, classes, splits, resolution, 3, root)


def tiny_imagenet(root: Path, resolution: int) -> Dataset:
    """Tiny ImageNet, from the folder tiny-imagenet-200 in `root`, or from `root` itself.

    Its validation images serve as the test set.

    >>> tiny_imagenet(Path("empty"), resolution=64)
    Traceback (most recent call last):
    condense.errors.UserError: .../empty/train: missing; ...
    """
    source = (
        root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    ).resolve()
    listed = source / "wnids.txt"
    wnids = sorted(_lines(listed)) if listed.is_file() else _subfolders(source / "train")
    if not wnids:
        raise UserError(
            f"{source / 'train'}: missing; give with --data-dir the folder that holds the "
            "unpacked tiny-imagenet-200"
        )
    train, test = _files(source / "train", wnids), _Files([], [])
    annotations = source / "val" / "val_annotations.txt"
    index = {wnid: c for c, wnid in enumerate(wnids)}
    for number, line in enumerate(_lines(annotations), 1):
        file, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in index:
            raise UserError(
                f"{annotations}: line {number} has the unknown class `{wnid}`; "
                "unpack the archive again"
            )
        test.paths.append(str(source / "val" / "images" / file))
        test.labels.append(index[wnid])
    if not test.paths:
        raise UserError(f"{annotations}: empty; unpack the archive again")
    classes = _tiny_names(source / "words.txt", wnids)
    return _decoded("tinyimagenet", source, classes, (train, test), resolution, 3, root)


def _tiny_names(words: Path, wnids: list[str]) -> list[str]:
    """A name for each class: the first of its words, followed by the wnid if two classes share it.

    Without the file `words` the name is the wnid.
    """
    lines = _lines(words) if words.is_file() else []
    table = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [table.get(wnid, wnid).partition(",")[0] for wnid in wnids]
    shared = Counter(names)
    return [
        name if shared[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _lines(path: Path) -> list[str]:
    with advice("unpack the archive again"):
        return read_text(path).splitlines()


def _subfolders(folder: Path) -> list[str]:
    """The sorted names of the folders in `folder`; an empty list if it does not exist."""
    if not folder.is_dir():
        return []
    inside = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return sorted(name for name in inside if not name.startswith("."))


def _files(folder: Path, classes: Sequence[str]) -> _Files:
    """The sorted image files below `folder`/<class>, for each of the `classes`."""
    files = _Files([], [])
    for c, name in enumerate(classes):
        paths = [
            os.path.join(parent, file)
            for parent, _, names in os.walk(folder / name)
            for file in names
            if file.lower().endswith(_SUFFIXES) and not file.startswith(".")
        ]
        if not paths:
            raise UserError(
                f"{folder / name}: no images of class `{name}`; "
                f"expected {', '.join(_SUFFIXES)} files"
            )
        files.paths.extend(sorted(paths))
        files.labels.extend([c] * len(paths))
    return files


def _decoded(
    name: str,
    source: Path,
    classes: Sequence[str],
    splits: tuple[_Files, _Files],
    resolution: int,
    channels: int | None,
    home: Path | None,
) -> Dataset:
    label = name.partition(":")[0]
    decoded = cached_pixels(
        label, source, [files.paths for files in splits], resolution, channels, home
    )
    train, test = (
        Images(split.pixels, torch.tensor(files.labels), tuple(classes), split.digest)
        for split, files in zip(decoded, splits, strict=True)
    )
    return Dataset(name, train, test)
