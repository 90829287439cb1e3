"""Guided fuzzing: what reaches new branches of a reader is kept, and changed further.

    python guided.py SECONDS [READER...]

It needs atheris, begins with whole files, and works on each reader for so many seconds. For each
reader a line of JSON says how many inputs there were, and what did not end as promised.

The promise: a file is read, or a `UserError` of one line says why not, within 20 seconds and 2 GB.
What a checksum would stop is let through, since another program could have written it with the
checksum that fits.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import atheris
import scenarios  # noqa: F401  # it finds the checkout

WATCHED = ["condense", "continual", "nas", "zipfile", "tomllib", "PIL", "numpy.lib"]
"""The packages whose branches are watched: ours, and what reads for them in Python."""
with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=WATCHED):
    import test_damage
    import test_fuzz
    import torch

    import condense.files
    from condense.errors import UserError
    from condense.reading import read_json
    from condense.runs.job import record

LIMITS = ["-timeout=20", "-rss_limit_mb=2048"]
BINARY = test_damage.CHECKED | test_damage.UNCHECKED
RECORDS = {name: json.dumps(content).encode() for name, (content, _) in test_fuzz.RECORDS.items()}
TEXTS = {
    "file.json": RECORDS["search"],
    "file.toml": b'steps = 3\n[a.b]\nc = [1.5, "x", 1979-05-27]\nd = {e = true}\n',
    "file.csv": b'index,accuracy\n5,"91.2"\n',
    "file.txt": "one\ntwö\n".encode(),
    "plan.json": RECORDS["plan"],
    "experts.json": RECORDS["experts"],
    "reference.csv": b"index,arch,digits_test\n0,,90.5\n7,,\n",
}
"""A whole text for each reader of texts."""
READERS: dict[str, Callable[[Path], Any]] = {
    **{name: test_fuzz.READERS[name] for name in [*TEXTS, "run.json"]},
    **{
        f"{name} record": lambda path, reader=reader: reader(read_json(path))
        for name, (_, reader) in test_fuzz.RECORDS.items()
    },
    **BINARY,
}


def whole(name: str, folder: Path) -> bytes:
    """An undamaged file for a reader."""
    if name in BINARY:
        return test_damage.whole(name)
    if name == "run.json":
        record(folder, test_fuzz._job(), finished=False)
        return (folder / name).read_bytes()
    return TEXTS.get(name) or RECORDS[name.removesuffix(" record")]


def without_checksums() -> None:
    """From now on every checksum fits."""
    condense.files.digest = lambda *_: mock.ANY
    sys.modules["condense.study.record"]._digest = lambda *_: mock.ANY
    sys.modules["condense.study.trials"]._checksum = lambda *_: mock.ANY
    sys.modules["zipfile"].ZipExtFile._update_crc = lambda *_: None
    chunks = sys.modules["PIL.PngImagePlugin"].ChunkStream
    chunks.crc = chunks.crc_skip


def attack(name: str, seconds: int, folder: Path) -> None:
    """Give inputs to a reader until one is wrong or the time is up; this ends the process."""
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "whole").write_bytes(whole(name, folder))
    without_checksums()

    def read(content: bytes) -> None:
        (folder / "last").write_bytes(content)
        try:
            with (
                contextlib.redirect_stderr(io.StringIO()),
                tempfile.TemporaryDirectory(dir=folder) as empty,
            ):
                READERS[name](Path(shutil.copy(folder / "last", Path(empty, name))))
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError("more than one line") from error

    torch.set_num_threads(1)
    atheris.Setup([sys.argv[0], *LIMITS, f"-max_total_time={seconds}", str(corpus)], read)
    atheris.Fuzz()


def guided(name: str, seconds: int) -> dict[str, Any]:
    """Attack a reader in a forked process; returns how many inputs there were, and the faults."""
    with tempfile.TemporaryDirectory() as home:
        log = Path(home, "log")
        child = os.fork()
        if not child:
            try:
                for stream in (1, 2):
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
                attack(name, seconds, Path(home))
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = log.read_text(errors="replace")
        last = b"".join(file.read_bytes() for file in Path(home).glob("last")).hex()
    memory = map(int, re.findall(r" rss: (\d+)Mb", said))
    return {
        "reader": name,
        "tried": int(["0", *re.findall(r"^#(\d+)", said, re.MULTILINE)][-1]),
        "MB at most": max(memory, default=0),
        "wrong": [f"{said[-3000:]}\nby the bytes {last}"] if code else [],
    }


if __name__ == "__main__":
    for chosen in sys.argv[2:] or READERS:
        print(json.dumps(guided(chosen, int(sys.argv[1]))), flush=True)
