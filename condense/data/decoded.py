"""Image files, decoded once: square uint8 pixels in a memory-mapped file beside the data.

A cache file holds the pixels of every split, one after another, and a seal of 16-byte digests:

    pixels uint8 [N, ch, R, R] | key of the source | content of each split | check of the blocks read at start

The key covers every file's path, size and modification time, so a changed folder is decoded again. The check covers
one block of 1 MiB in 64 places and the seal: all of a small cache, a sample of a large one. Reading all 16 GB of
ImageNet at 64 px would take longer than the start may, and what happens to such files is truncation, partial copies
and overwriting, which size and sample reveal. Whatever does not fit is rebuilt.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condense.errors import UserError

VERSION = 1  # of the decoding: raise it when the pixels change
_DIGEST = 16
_BLOCK = 1 << 20
_BLOCKS = 64


class Pixels(NamedTuple):
    """The images of one split: uint8 [N, ch, R, R] and the hex digest of their bytes."""

    pixels: Tensor
    digest: str


def square(image: Any, resolution: int) -> Any:
    """A PIL image or uint8 tensor [N, ch, H, W] as `resolution` x `resolution`.

    The shorter side is resized (bilinear, antialiased), then the centre is cropped.
    """
    import torchvision.transforms.functional as F

    if isinstance(image, Tensor):  # in chunks: resizing goes through float32
        chunks = image.split(1024)
        return torch.cat(
            [
                F.center_crop(F.resize(chunk, [resolution], antialias=True), [resolution])
                for chunk in chunks
            ]
        )
    return F.center_crop(F.resize(image, [resolution]), [resolution])


def digest(pixels: Tensor) -> str:
    """The hex digest of uint8 pixels, as the cache stores it."""
    return blake2b(pixels.cpu().contiguous().numpy().data, digest_size=_DIGEST).hexdigest()


def cached_pixels(
    name: str,
    source: Path,
    splits: Sequence[Sequence[str]],
    resolution: int,
    channels: int | None,
    home: Path | None,
) -> list[Pixels]:
    """The pixels of the image files of each split, memory-mapped; decoded now unless a valid cache is there.

    `name` and the folder `source` name the cache file. `channels` is 1 or 3; None means 1 where every image of every
    split is greyscale, else 3. The cache lies in `home`/.condensekit-cache, or in the user's cache folder where that
    cannot be written or `home` is None. The tensors may be written to: the mapping is private, the file is not touched.

    Raises `UserError` for a file that cannot be decoded and for a cache that cannot be written.
    """
    key = _key(splits, resolution, channels)
    sizes = [len(files) for files in splits]
    file_name = (
        f"{name}-{resolution}px-{blake2b(os.fsencode(source), digest_size=4).hexdigest()}.u8"
    )
    folders = _folders(home)
    for folder in folders:
        if found := _open(folder / file_name, key, sizes, resolution):
            return found
    path = _first_writable(folders) / file_name

    from filelock import FileLock

    with FileLock(f"{path}.lock"):  # a second process waits here and finds what the first one built
        found = _open(path, key, sizes, resolution)
        if not found:
            _build(path, key, splits, resolution, channels)
            found = _open(path, key, sizes, resolution)
    if not found:
        raise UserError(f"{path}: changed while it was read; run again")
    return found


def _key(splits: Sequence[Sequence[str]], resolution: int, channels: int | None) -> bytes:
    key = blake2b(f"{VERSION} {resolution} {channels}".encode(), digest_size=_DIGEST)
    for files in splits:
        key.update(b"split\n")
        for file in files:
            try:
                status = os.stat(file)
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror}); restore it") from error
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
        f"nowhere to keep decoded images: cannot write to {' or '.join(map(str, folders))}; set XDG_CACHE_HOME"
    )


def _open(path: Path, key: bytes, sizes: list[int], resolution: int) -> list[Pixels] | None:
    """The splits in the cache at `path`, or None where it is absent, of another source, or damaged."""
    try:
        with open(path, "rb") as file:
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
    except OSError:
        return None
    contents = [
        seal[start : start + _DIGEST].hex()
        for start in range(_DIGEST, len(seal) - _DIGEST, _DIGEST)
    ]
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
    """Decode every file into `path`; threads suffice, as Pillow decodes and resizes without Python's lock."""
    from rich.console import Console
    from rich.progress import track

    files = list(chain.from_iterable(splits))
    owners = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    contents = [blake2b(digest_size=_DIGEST) for _ in splits]
    beside = path.with_suffix(".partial")
    console = Console(stderr=True)
    try:
        with (
            warnings.catch_warnings(),
            ThreadPool(os.cpu_count()) as pool,
            open(beside, "w+b") as out,
        ):
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            channels = channels or (1 if all(map(_is_grey, files)) else 3)
            images = pool.imap(
                partial(_decode, resolution=resolution, channels=channels), files, chunksize=16
            )
            progress = track(
                images,
                f"decoding {path.stem}",
                len(files),
                console=console,
                disable=not console.is_terminal,
            )
            for image, owner in zip(progress, owners, strict=True):
                out.write(image)
                contents[owner].update(image)
            total = out.tell()
            seal = key + b"".join(content.digest() for content in contents)
            check = _check(out, total, seal)
            out.seek(total)
            out.write(seal + check)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the decoded images ({error.strerror}); make room, or move the data"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _image(file: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # a decoder may raise anything on damaged bytes
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file}: cannot be decoded as an image ({reason}); replace or remove it"
        ) from error


def _is_grey(file: str) -> bool:
    with _image(file) as image:
        return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _decode(file: str, resolution: int, channels: int) -> bytes:
    """The pixels uint8 [ch, R, R] of an image file."""
    with _image(file) as image:
        if image.mode.startswith(
            "I"
        ):  # 16 bits a pixel: keep the upper 8; Pillow would clip at 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        image = square(image.convert("L" if channels == 1 else "RGB"), resolution)
        return (
            np.asarray(image).reshape(resolution, resolution, channels).transpose(2, 0, 1).tobytes()
        )
