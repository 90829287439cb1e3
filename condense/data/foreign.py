"""Pictures, arrays and tensors in files of other programs: within limits, and never running code.

What a file claims is checked before memory is spent on it: how many pixels a picture has, and what
the arrays and tensors of a small file expand to. Whatever is wrong with a file is a `UserError` of
one line that names it.
"""

import io
import math
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from condense.errors import UserError
from condense.reading import open_file

MOST_PIXELS = 100_000_000
"""The most pixels of a picture."""
_FREE, _MOST_TIMES = 1 << 28, 20
"""Content may take 256 MiB, or 20 times as much as the file: what expands further is a trap."""
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Whatever a file is called, Pillow takes it for one of these. EPS, for example, is a program."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""


# ---- pictures


@contextmanager
def picture(file: str | Path) -> Iterator[Image.Image]:
    """The picture in a file, which is decoded when it is first used.

    Pillow warns of odd metadata; a caller with one thread may silence that. Raises `UserError`,
    also in the block, for a file that is missing, damaged, no picture or too large.

    >>> Image.new("L", (40, 30)).save("grey.png")
    >>> with picture("grey.png") as image:
    ...     image.size
    (40, 30)
    """
    with open_file(file) as content, picture_in(content, str(file)) as image:
        yield image


@contextmanager
def picture_in(content: BinaryIO, name: str) -> Iterator[Image.Image]:
    """The picture that `content` holds, as `picture` gives that in a file; errors call it `name`.

    >>> with picture_in(io.BytesIO(b"no picture"), "row 3"):
    ...     pass
    Traceback (most recent call last):
    condense.errors.UserError: row 3 cannot be decoded as a picture (...); replace or remove it
    """
    try:
        with Image.open(content, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{name} has more than {MOST_PIXELS:,} pixels; scale it down or remove it"
        ) from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not in a known picture format" if unknown else str(error).partition("\n")[0]
        raise UserError(
            f"{name} cannot be decoded as a picture ({reason}); replace or remove it"
        ) from error


def upright(image: Image.Image) -> Image.Image:
    """The picture, turned or mirrored as its EXIF orientation says; itself where that says nothing.

    >>> photo = Image.new("L", (40, 30))
    >>> photo.getexif()[_ORIENTATION] = 6
    >>> upright(photo).size
    (30, 40)
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata says nothing, and the picture is whole
        turn = None
    return image if turn is None else image.transpose(turn)


def opaque(image: Image.Image) -> Image.Image:
    """The picture on white where it is transparent; itself where it is not.

    >>> opaque(Image.new("RGBA", (4, 3), (255, 0, 255, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode.startswith("I") or not image.has_transparency_data:
        return image
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema() == (255, 255):
        return image
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """The picture with the upper 8 of 16 bits; itself where it has no more than 8.

    Raises `UserError` for a picture of floats, whose range nothing tells.

    >>> eight_bits(Image.new("I;16", (4, 3), 256 * 7)).getpixel((0, 0))
    7
    """
    if image.mode == "F":
        raise UserError("its values are floats: save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    # Pillow would clip at 255.
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


# ---- arrays


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays called `names` that the `.npz` file at `path` holds.

    Raises `UserError` for a file that is missing or damaged, for arrays of Python objects, which
    are pickles, and for arrays that expand too far.

    >>> np.savez("some.npz", a=np.arange(3), b=np.zeros(2))
    >>> read_arrays(Path("some.npz"), ("a", "c"))
    {'a': array([0, 1, 2])}
    """
    with open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                inside = {entry.filename.removesuffix(".npy"): entry for entry in entries}
                if len(inside) < len(entries):
                    raise ValueError("it holds something twice")
                for entry in inside.values():  # no checksum covers the names, but each is there
                    archive.open(entry).close()  # twice, and this compares the two
                wanted = {name: inside[name] for name in names if name in inside}
                _check_entries(path, file, wanted.values())
                return {name: _array(archive, entry) for name, entry in wanted.items()}
        except UserError:
            raise
        except Exception as error:  # a reader may raise anything on damaged bytes
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path} is damaged or not an .npz file of plain arrays ({reason}); "
                "save it again with numpy.savez"
            ) from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array, if it is as long as its header says."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(entry) as stream:
        shape, _, kind = readers[np.lib.format.read_magic(stream)](stream)
        held = entry.file_size - stream.tell()
    if kind.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects")
    count = math.prod(shape, start=1)
    if count * kind.itemsize != held or (count and not kind.itemsize):
        raise ValueError(f"{entry.filename} is not as long as its header says")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


# ---- tensors


def read_tensors(path: Path) -> Any:
    """The content of a `.pt` file, on the CPU: tensors in lists and dicts, and plain values.

    A file that is a zip archive, as all are since PyTorch 1.6, must match the checksums in it. An
    older one has none, which is said on stderr. Raises `UserError` for a file that is missing,
    damaged or too large, and for one that could only be read by unpickling.

    >>> torch.save([torch.ones(2)], "some.pt")
    >>> read_tensors(Path("some.pt"))
    [tensor([1., 1.])]
    """
    with open_file(path) as file:
        whole = _checked(path, file)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_allowed()):
                warnings.simplefilter("ignore")  # PyTorch warns of kinds that `dense` refuses
                content = torch.load(whole, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            refused = re.search(r"GLOBAL (\S+)", str(error))
            if refused is None:
                raise UserError(f"{path} is damaged or not a .pt file") from None
            raise UserError(
                f"{path} holds `{refused[1]}`, which only unpickling (running code from "
                "the file) could read: refused; save its images and labels as two tensors"
            ) from None
        except Exception as error:  # the unpickler may raise anything on damaged bytes
            reason = str(error).partition("\n")[0] or "empty"
            raise UserError(f"{path} is damaged or not a .pt file: {reason}") from None
        if whole is file:
            print(
                f"{path} is in the old .pt format, which has no checksums: "
                "damage cannot be detected",
                file=sys.stderr,
            )
        return content


def dense(path: Path, tensor: Tensor) -> Tensor:
    """A tensor of the file at `path`, if it is an ordinary one.

    Raises `UserError` for a sparse tensor, for one without content (`meta`), and for one that
    repeats a few stored values so often that it would fill the memory.

    >>> dense(Path("some.pt"), torch.zeros(1).expand(10**12))
    Traceback (most recent call last):
    condense.errors.UserError: some.pt expands to 4,000.0 GB, ...
    """
    kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
    if kind != "strided" or tensor.is_nested or tensor.is_quantized:
        raise UserError(
            f"{path} holds a tensor that is not ordinary ({kind}): save it dense, with its content"
        )
    size = tensor.numel() * max(4, tensor.element_size())
    check_expanded(path, size, tensor.untyped_storage().nbytes())
    return tensor.detach()


def _checked(path: Path, file: BinaryIO) -> BinaryIO:
    """The content of a `.pt` file; of a zip archive, a copy of what matches the checksums in it.

    PyTorch compares no checksums, and of the fields of an archive it believes others than Python
    does. Where one of them is wrong, it takes memory as it was for content.
    """
    copy = io.BytesIO()
    try:
        if not (file.read(2) == b"PK" or zipfile.is_zipfile(file)):
            file.seek(0)
            return file
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as target:
            _check_entries(path, file, archive.infolist())
            if len(set(archive.namelist())) < len(archive.namelist()):
                raise ValueError("it holds something twice")
            for name in archive.namelist():
                with archive.open(name) as content, target.open(name, "w", force_zip64=True) as to:
                    shutil.copyfileobj(content, to)
    except UserError:
        raise
    except Exception as error:  # a reader may raise anything on damaged bytes
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged or not a .pt file: {reason}") from None
    copy.seek(0)
    return copy


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


# ---- all


def check_expanded(path: Path, size: int, stored: int) -> None:
    """Raise a `UserError` if `size` bytes are more than `stored` bytes at `path` may expand to.

    >>> check_expanded(Path("some.npz"), 10**12, 3 * 10**6)
    Traceback (most recent call last):
    condense.errors.UserError: some.npz expands to 1,000.0 GB, more than 20 times its size: ...
    """
    if size > max(_FREE, _MOST_TIMES * stored):
        raise UserError(
            f"{path} expands to {size / 1e9:,.1f} GB, more than {_MOST_TIMES} times its size: "
            "if that is meant, save it uncompressed"
        )


def _check_entries(path: Path, file: BinaryIO, entries: Iterable[zipfile.ZipInfo]) -> None:
    check_expanded(path, sum(entry.file_size for entry in entries), file.seek(0, 2))
