"""Image files that are decoded once: square uint8 pixels in a memory-mapped file next to the data.

A cache file holds the pixels of all splits, one split after the other, and then four kinds of
digests of 16 bytes each:

    pixels uint8 [N, ch, R, R] | key of the source | one digest per split | check of some blocks

The key covers the path, size and modification time of every image file, so that a changed folder
is decoded again. The check covers the other digests and up to 64 blocks of 1 MiB: all of a small
cache, and a sample of a large one. Reading the 16 GB of ImageNet at 64 px completely would take too
long at every start. The damage that such files do suffer (truncation, partial copies, overwriting)
shows in the file size or in the sample. A cache that fails the check is rebuilt.
"""

import os
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condense.data.foreign import MOST_PIXELS, eight_bits, opaque, picture, upright
from condense.errors import UserError
from condense.progress import notice
from condense.reading import open_file
from condense.settings import within
from condense.words import counted
from condense.writing import replacing

VERSION = 3  # of the decoding; raise it when the decoded pixels change
_DIGEST = 16
_BLOCK = 1 << 20
_BLOCKS = 64
_LARGE = 32_000_000
"""Pixels above which no two pictures are decoded at once."""
_LARGE_LOCK = Lock()
_NAMED = 10
"""The most pictures that are named if they cannot be read."""
_DARK = 1 << 13
"""An eighth of the range of 16 bits."""


class Pixels(NamedTuple):
    """The images of one split.

    >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> Pixels(black, digest(black)).pixels.shape
    torch.Size([1, 3, 8, 8])
    """

    pixels: Tensor
    """uint8 [N, ch, R, R]."""
    digest: str
    """Hex digest of the bytes of `pixels`."""


def square(image: Any, resolution: int) -> Any:
    """Resize and crop a PIL image or a uint8 tensor [N, ch, H, W] to `resolution` x `resolution`.

    The shorter side is resized to `resolution` (bilinear, antialiased), then the centre is cropped.

    >>> square(Image.new("RGB", (40, 30)), 16).size
    (16, 16)
    >>> square(torch.zeros(2, 3, 30, 40, dtype=torch.uint8), 16).shape
    torch.Size([2, 3, 16, 16])
    """
    if isinstance(image, Tensor) and image.shape[2:] == (resolution, resolution):
        return image
    import torchvision.transforms.functional as F  # takes seconds

    _, height, width = F.get_dimensions(image)
    short = min(height, width)
    if max(height, width) / short * resolution**2 > MOST_PIXELS:
        # The ends, which are cropped anyway, would fill the memory.
        image = F.center_crop(image, [min(2 * short, height), min(2 * short, width)])
    if isinstance(image, Tensor):  # in chunks, because resizing converts to float32
        resized = (F.resize(chunk, [resolution], antialias=True) for chunk in image.split(1024))
        return torch.cat([F.center_crop(chunk, [resolution]) for chunk in resized])
    return F.center_crop(F.resize(image, [resolution]), [resolution])


def digest(pixels: Tensor) -> str:
    """The hex digest of uint8 pixels, as the cache stores it.

    >>> len(digest(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)))
    32
    """
    return blake2b(pixels.cpu().contiguous().numpy().data, digest_size=_DIGEST).hexdigest()


def cached_pixels(
    name: str,
    source: Path,
    splits: Sequence[Sequence[str]],
    resolution: int,
    channels: int | None,
    home: Path | None,
) -> list[Pixels]:
    """The memory-mapped pixels of the image files of each split.

    If there is no valid cache yet, the files are decoded now.

    Parameters
    ----------
    name, source: a label and the folder of the images; together they name the cache file.
    splits: the paths of the image files of each split.
    resolution: the side of the decoded images in pixels.
    channels: 1 or 3. None means 1 if every image of every split is greyscale, else 3.
    home: the folder in which .condensekit-cache is created. If it is None or cannot be written,
        the cache goes to the user's cache folder.

    The tensors may be written to: the mapping is private and the file does not change.
    Raises `UserError` for a file that cannot be decoded and for a cache that cannot be written.

    >>> Image.new("L", (40, 30)).save("1.png")
    >>> here = Path.cwd()
    >>> (train,) = cached_pixels("mine", here, [["1.png"]], 16, channels=None, home=here)
    >>> train.pixels.shape
    torch.Size([1, 1, 16, 16])
    """
    key = _key(splits, resolution, channels)
    sizes = [len(files) for files in splits]
    file_name = (
        f"{name}-{resolution}px-{blake2b(os.fsencode(source), digest_size=4).hexdigest()}.u8"
    )
    folders = _folders(home)
    for folder in folders:
        if cached := _open(folder / file_name, key, sizes, resolution):
            return cached
    path = _first_writable(folders) / file_name

    from filelock import FileLock

    with FileLock(f"{path}.lock"):  # a second process waits here, then finds the finished cache
        cached = _open(path, key, sizes, resolution)
        if not cached:
            _build(path, key, splits, resolution, channels)
            cached = _open(path, key, sizes, resolution)
    if not cached:
        raise UserError(f"{path}: changed while it was read; run again")
    return cached


def _key(splits: Sequence[Sequence[str]], resolution: int, channels: int | None) -> bytes:
    key = blake2b(f"{VERSION} {resolution} {channels}".encode(), digest_size=_DIGEST)
    for files in splits:
        key.update(b"split\n")
        for file in files:
            try:
                status = os.stat(file)
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror}); restore it") from error
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{file} is no regular file: remove it")
            key.update(os.fsencode(file) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return key.digest()


def _folders(home: Path | None) -> list[Path]:
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "condensekit"
    return [home / ".condensekit-cache", user] if home and home.is_dir() else [user]


def _first_writable(folders: list[Path]) -> Path:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise UserError(
        "nowhere to keep decoded images: "
        f"cannot write to {' or '.join(map(str, folders))}; set XDG_CACHE_HOME"
    )


def _open(path: Path, key: bytes, sizes: list[int], resolution: int) -> list[Pixels] | None:
    """The splits in the cache at `path`; None if it is missing, damaged or of another source."""
    try:
        with open_file(path) as file:
            seal_size = _DIGEST * (len(sizes) + 2)
            total = file.seek(0, os.SEEK_END) - seal_size
            channels, rest = divmod(total, sum(sizes) * resolution**2)
            if rest or channels not in (1, 3):
                return None
            file.seek(total)
            seal = file.read(seal_size)
            if not seal.startswith(key) or not seal.endswith(_check(file, total, seal[:-_DIGEST])):
                return None
            array = np.memmap(
                file, np.uint8, "c", shape=(sum(sizes), channels, resolution, resolution)
            )
    except (OSError, UserError):
        return None
    starts = range(_DIGEST, len(seal) - _DIGEST, _DIGEST)
    contents = [seal[start : start + _DIGEST].hex() for start in starts]
    return list(map(Pixels, torch.from_numpy(array).split(sizes), contents))


def _check(file: BinaryIO, total: int, seal: bytes) -> bytes:
    check = blake2b(seal, digest_size=_DIGEST)
    blocks = -(-total // _BLOCK)
    for block in np.unique(
        np.linspace(0, blocks - 1, min(blocks, _BLOCKS)).round().astype(np.int64)
    ):
        file.seek(int(block) * _BLOCK)
        check.update(file.read(min(_BLOCK, total - int(block) * _BLOCK)))
    return check.digest()


def _build(
    path: Path, key: bytes, splits: Sequence[Sequence[str]], resolution: int, channels: int | None
) -> None:
    """Decode all files into `path`.

    Threads are enough, since Pillow releases Python's lock while it decodes and resizes.
    """
    from rich.console import Console
    from rich.progress import track

    files = list(chain.from_iterable(splits))
    owners = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    contents = [blake2b(digest_size=_DIGEST) for _ in splits]
    console, tally, broken = Console(stderr=True), _Tally(), dict[str, UserError]()
    with warnings.catch_warnings(), ThreadPool(os.cpu_count()) as pool, replacing(path) as out:
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata
        channels = channels or (1 if all(map(_is_grey, files)) else 3)
        images = pool.imap(
            partial(_tried, resolution=resolution, channels=channels), files, chunksize=16
        )
        title, hidden = f"decoding {path.stem}", not console.is_terminal
        progress = track(images, title, len(files), console=console, disable=hidden)
        with notice(f"decoding {counted(len(files), 'picture')}", quiet=None if hidden else True):
            for file, found, owner in zip(files, progress, owners, strict=True):
                if isinstance(found, UserError):
                    broken[file] = found
                    continue
                out.write(found.content)
                contents[owner].update(found.content)
                tally.add(found)
        if broken:
            raise _all_of(broken, len(files))
        total = out.tell()
        seal = key + b"".join(content.digest() for content in contents)
        check = _check(out, total, seal)
        out.seek(total)
        out.write(seal + check)
    tally.tell(len(files))


class _Decoded(NamedTuple):
    """One picture."""

    content: bytes
    """Its pixels, uint8 [ch, R, R]."""
    turned: bool
    """Whether it had to be turned upright."""
    on_white: bool
    """Whether it was transparent somewhere."""
    deep: int | None
    """The largest value of a picture of 16 bits; None for any other."""


@dataclass
class _Tally:
    """What was done to pictures that their owner may want to know."""

    turned: int = 0
    on_white: int = 0
    deep: int = 0
    brightest: int = 0

    def add(self, one: _Decoded) -> None:
        self.turned += one.turned
        self.on_white += one.on_white
        if one.deep is not None:
            self.deep += 1
            self.brightest = max(self.brightest, one.deep)

    def tell(self, count: int) -> None:
        """Say it on stderr, for `count` pictures in all."""
        of = f"of {counted(count, 'picture')}"
        if self.turned:
            _say(f"turned {self.turned} {of} upright, as their EXIF data says")
        if self.on_white:
            _say(f"put {self.on_white} {of} on white, where they are transparent")
        if self.deep and self.brightest < _DARK:
            _say(
                f"warning: {self.deep} {of} have 16 bits, of which they use less than an eighth of "
                f"the range (0 to {self.brightest} of 65535): they will be nearly black; spread "
                "their values over the range"
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _all_of(broken: Mapping[str, UserError], count: int) -> UserError:
    """The error for the pictures that cannot be read, of `count` in all: why, for the first."""
    (_, first), *others = broken.items()
    if not others:
        return first
    folder = os.path.commonpath([os.path.dirname(file) for file in broken])
    names = [os.path.relpath(file, folder) for file, _ in others[: _NAMED - 1]]
    more = len(others) - len(names)
    rest = f" and {more} more" if more else ""
    return UserError(
        f"{len(broken)} of {counted(count, 'picture')} cannot be read: {first}; likewise "
        f"{', '.join(names)}{rest}"
    )


def _is_grey(file: str) -> bool:
    """Whether a picture is grey; one that cannot be read may be, and is named later."""
    try:
        with picture(file) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except UserError:
        return True


def _tried(file: str, resolution: int, channels: int) -> _Decoded | UserError:
    try:
        return _decode(file, resolution=resolution, channels=channels)
    except UserError as error:
        return error


def _decode(file: str, resolution: int, channels: int) -> _Decoded:
    with picture(file) as image, _one_if_large(image), within(file):
        turned = upright(image)
        whole = opaque(turned)
        deep = int(np.asarray(whole).max()) if whole.mode.startswith("I") else None
        kind = "L" if channels == 1 else "RGB"
        cut = np.asarray(square(eight_bits(whole).convert(kind), resolution))
    pixels = cut.reshape(resolution, resolution, channels).transpose(2, 0, 1)
    return _Decoded(pixels.tobytes(), turned is not image, whole is not turned, deep)


@contextmanager
def _one_if_large(image: Image.Image) -> Iterator[None]:
    """Large pictures are decoded one after the other, so that memory does not depend on threads."""
    large = image.width * image.height > _LARGE
    with _LARGE_LOCK if large else nullcontext():
        yield
