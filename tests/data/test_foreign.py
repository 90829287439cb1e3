"""Pictures, arrays and tensors of other programs: damage is noticed, traps spend no memory."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condense.data import foreign
from condense.data.foreign import dense, picture, read_arrays, read_tensors, upright
from condense.errors import UserError

CONTENT = {"data": [[torch.arange(24.0).view(2, 1, 3, 4), torch.tensor([0, 1])]], "accs": [0.5]}


def same(content) -> bool:
    (images, labels), (whole, both) = content["data"][0], CONTENT["data"][0]
    return torch.equal(images, whole) and torch.equal(labels, both) and content["accs"] == [0.5]


def refused_or_same(file: Path) -> bool:
    """Whether a damaged file is refused, in one line; if not, it is read as if it were whole."""
    try:
        content = read_tensors(file)
    except UserError as error:
        message = str(error)
    else:
        assert same(content)
        return False
    assert str(file) in message
    assert "\n" not in message
    return True


def test_no_flipped_bit_of_a_pt_changes_what_is_read(tmp_path):
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer)
    whole, file = buffer.getvalue(), tmp_path / "a.pt"
    refused = 0
    for place in range(0, len(whole), 2):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place // 2 % 8
        file.write_bytes(flipped)
        refused += refused_or_same(file)
    assert refused > len(whole) // 8  # the rest is padding, dates and the like


def test_no_cut_pt_is_read(tmp_path):
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer)
    whole, file = buffer.getvalue(), tmp_path / "a.pt"
    for cut in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:cut])
        assert refused_or_same(file)


def test_what_names_several_disks_is_refused(tmp_path):
    """Python's zipfile raises where it only looks whether a file is an archive."""
    file = tmp_path / "a.pt"
    file.write_bytes(b"--" + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + b"PK\5\6" + bytes(18))
    with pytest.raises(UserError, match=r"a\.pt is damaged or not a \.pt file: .*multiple disks"):
        read_tensors(file)


def test_the_old_format_has_no_checksums_and_that_is_said(tmp_path, capsys):
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_tensors(tmp_path / "old.pt"))
    assert "old.pt is in the old .pt format, which has no checksums" in capsys.readouterr().err
    torch.save(CONTENT, tmp_path / "new.pt")
    assert same(read_tensors(tmp_path / "new.pt"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "not ordinary .sparse_coo."),
        (lambda: torch.eye(3).to_sparse_csr(), "not ordinary .sparse_csr."),
        (lambda: torch.empty(3, device="meta"), "not ordinary .meta."),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "not ordinary"),
        (lambda: torch.zeros(1).expand(2**40), r"expands to 4,398\.0 GB"),
        (lambda: torch.zeros(1, dtype=torch.uint8).expand(2**27), r"expands to 0\.5 GB"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # some of these kinds are experimental
def test_tensors_that_are_not_ordinary_are_refused(make, message, tmp_path):
    torch.save([make()], tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        dense(tmp_path / "a.pt", read_tensors(tmp_path / "a.pt")[0])


def test_ordinary_tensors_are_taken(tmp_path):
    wanted = torch.arange(6.0).view(2, 3)
    torch.save([wanted, wanted.T, torch.nn.Parameter(wanted)], tmp_path / "a.pt")
    plain, turned, parameter = (dense(tmp_path, one) for one in read_tensors(tmp_path / "a.pt"))
    assert torch.equal(plain, wanted)
    assert torch.equal(turned, wanted.T)
    assert not parameter.requires_grad


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The header of an array, as numpy writes it."""
    buffer = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def write_zip(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((2**46,)) + b"x" * 100, "not as long as its header says"),  # 64 terabytes
        (npy((2**40, 2**40, 2**40)) + b"x", "not as long as its header says"),
        (npy((10,)) + b"x" * 9, "not as long as its header says"),
        (npy((10,)) + b"x" * 11, "not as long as its header says"),
        (npy((2**60,), "|S0"), "not as long as its header says"),
        (npy((-1, -10)) + b"x" * 10, "damaged"),
        (npy((1,), "|O") + b"x" * 8, "holds Python objects"),
        (b"\x93NUMPY\x07\x00" + b"x" * 100, "damaged"),
        (b"", "damaged"),
    ],
)
def test_an_array_that_is_not_what_its_header_says_is_refused(content, message, tmp_path):
    file = write_zip(tmp_path / "a.npz", images=content)
    with pytest.raises(UserError, match=message) as caught:
        read_arrays(file, ["images"])
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_arrays_of_any_order_and_version_come_back(tmp_path):
    arrays = {
        "a": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "b": np.array("text"),
        "c": np.zeros((0, 3)),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    got = read_arrays(tmp_path / "a.npz", ("a", "b", "c", "d"))
    assert got.keys() == {"a", "b", "c"}
    for name, array in got.items():
        assert array.dtype == arrays[name].dtype
        assert np.array_equal(array, arrays[name])
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.arange(4), version=(2, 0))
    file = write_zip(tmp_path / "b.npz", e=buffer.getvalue())
    assert read_arrays(file, ["e"])["e"].tolist() == [0, 1, 2, 3]


def write_png(path: Path, width: int, height: int) -> Path:
    """A PNG whose header says so; its content ends there."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = buffer.getvalue()
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4) + content[33:])
    return path


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(size, tmp_path):
    file = write_png(tmp_path / "a.png", *size)
    with pytest.raises(UserError, match=r"a\.png has more than 100,000,000 pixels"):
        _decoded(file)


def _decoded(file: Path) -> Image.Image:
    with picture(file) as image:
        return upright(image)


def test_pictures_are_pictures_whatever_they_are_called(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.eps")  # a program in PostScript
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be decoded as a picture"):
        _decoded(tmp_path / "a.png")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "b.webp")
    (tmp_path / "b.webp").rename(tmp_path / "b.png")
    assert _decoded(tmp_path / "b.png").size == (3, 2)


@pytest.mark.parametrize("name", foreign._FORMATS)
def test_all_kinds_of_pictures_are_read(name, tmp_path):
    Image.new("L", (3, 2), 200).save(tmp_path / "a", name)
    assert _decoded(tmp_path / "a").size == (3, 2)


TRAPS = """
import io, resource, sys, zipfile, zlib
from pathlib import Path
import numpy as np, torch
from PIL import Image
from condense.data.foreign import dense, picture, read_arrays, read_tensors
from condense.errors import UserError

def header(*shape):
    buffer = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()

def zipped(path, name, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w", force_zip64=True) as entry:
            entry.write(header(size))
            for _ in range(size >> 24):
                entry.write(bytes(1 << 24))

def png(path, side):
    packed = zlib.compressobj(9)
    rows = b"".join([packed.compress(bytes(1 + side)) for _ in range(side)]) + packed.flush()
    def chunk(kind, content):
        check = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + check
    size = side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    path.write_bytes(
        b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", size)
        + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

here = Path(sys.argv[1])
zipped(here / "bomb.npz", "images.npy", 600 << 20)
zipped(here / "bomb.pt", "archive/data/0", 600 << 20)
png(here / "bomb.png", 20_000)
torch.save([torch.zeros(1).expand(2**32)], here / "expanded.pt")
sizes = sum(file.stat().st_size for file in here.iterdir())
before = peak()
def decoded(path):
    with picture(path) as image:
        image.load()
for read, name in (
    (lambda path: read_arrays(path, ["images"]), "bomb.npz"), (read_tensors, "bomb.pt"),
    (decoded, "bomb.png"), (lambda path: dense(path, read_tensors(path)[0]), "expanded.pt"),
):
    try:
        read(here / name)
    except UserError as error:
        print(error)
print(sizes >> 20, peak() - before)
"""


@pytest.mark.slow
def test_traps_spend_no_memory(tmp_path):
    """Files of a few MB that expand to 400 MB and more, as a process meets them."""
    done = subprocess.run(
        [sys.executable, "-c", TRAPS, tmp_path], capture_output=True, text=True, check=True
    )
    *messages, last = done.stdout.splitlines()
    assert [message.split()[0].rpartition("/")[2] for message in messages] == [
        "bomb.npz", "bomb.pt", "bomb.png", "expanded.pt",
    ]  # fmt: skip
    on_disk, spent = map(int, last.split())
    assert on_disk < 10
    assert spent < 100
