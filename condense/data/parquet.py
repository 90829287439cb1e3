"""Images and labels in Parquet files, as Hugging Face `datasets` lays them out.

    PATH/train-00000-of-00001.parquet     or PATH/train/....parquet, PATH/data/train-....parquet
    PATH/test-00000-of-00001.parquet      or validation; two folders down at most

A column holds the pictures (`image: struct<bytes, path>`), another the labels (int64). What they
are called and the names of the classes are in the metadata `huggingface` of the file. pyarrow reads
them; a dataset of the hub is loaded by `datasets`.
"""

import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from condense.data.foreign import check_expanded, picture_in
from condense.data.images import Dataset
from condense.data.own import Labelled, as_dataset, joined, pixels_of
from condense.errors import UserError, reason
from condense.progress import notice
from condense.reading import open_file, usable_path
from condense.settings import within

METADATA = b"huggingface"
"""The key of the schema's metadata under which `datasets` describes the columns."""
_DEEPEST = 2
"""How many folders down Parquet files lie at most: the hub has them in `default/train/`."""
_ROWS = 16
"""Rows that are read before their size is looked at."""
_PATIENCE = 10.0
"""Seconds that the hub may take to answer."""
_SPLIT = re.compile(r"(train|test|validation|valid|val)(?![a-z])")
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of Parquet files.

    >>> rows = Rows(place=Path("pets"), pictures=[b"GIF"], labels=np.array([1]))
    >>> next(rows.images())
    Traceback (most recent call last):
    condense.errors.UserError: the picture in row 0 of pets cannot be decoded as a picture ...
    """

    place: Path
    """The first of the files, for messages."""
    pictures: list[bytes]
    """A picture in each row, as the bytes of its file."""
    labels: np.ndarray
    """int64 [N]."""
    names: tuple[str, ...] | None = None
    """The names of the classes, where the files have them."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Other columns that were asked for and are there, [N, ...]."""

    def images(self) -> Iterator[Tensor]:
        """The pictures, uint8 [1 or 3, H, W] each."""
        for number, content in enumerate(self.pictures):
            name = f"the picture in row {number} of {self.place}"
            with picture_in(io.BytesIO(content), name) as image, within(name):
                image.load()
                yield pixels_of(image)


def pyarrow() -> ModuleType:
    """The module `pyarrow`, with `pyarrow.parquet`. Raises `UserError` where it is not installed.

    >>> pyarrow().__name__
    'pyarrow'
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'condensekit[hf]'") from None
    return pa


def hugging_face(name: str, resolution: int | None) -> Dataset:
    """The dataset that `hf:PATH` names: Parquet files in a folder, or a dataset of the hub.

    Without test images, the second of every five images of a class becomes one. Raises `UserError`
    for what is not there, and for files that are damaged or hold something else.

    >>> hugging_face("hf:no/such/folder", None)
    Traceback (most recent call last):
    condense.errors.UserError: no/such/folder: no such folder; ...
    """
    text = name.removeprefix("hf:")
    path = usable_path(text)
    if path.exists():
        splits = _splits(path)
        train = _labelled(splits["train"])
        test = _labelled(splits["test"]) if "test" in splits else None
        return joined(name, train, test, resolution, split=True)
    if not _HUB.fullmatch(text):
        raise UserError(f"{path}: no such folder; expected Parquet files, or a name of the hub")
    return _of_hub(name, text, resolution)


def _of_hub(name: str, repository: str, resolution: int | None) -> Dataset:
    """A dataset of the hub, which `datasets` downloads and keeps."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{repository}: no such folder, and the hub needs `datasets`: pip install "
            "'condensekit[hf]'"
        ) from None
    with notice(f"asking the hub for {repository}"), _without_warnings("huggingface_hub"):
        silence = _silence(repository, datasets.config.HF_ENDPOINT)
        try:
            with _offline(datasets.config) if silence else nullcontext():
                found = datasets.load_dataset(repository)
        except Exception as error:  # the network and the files of others: anything may go wrong
            said = str(error).partition("\n")[0]
            why = f"which cannot be reached: {silence}" if silence else said
            raise UserError(
                f"{repository}: no such folder, and not loaded from the hub ({why})"
            ) from error
    return as_dataset(found, name=name, resolution=resolution)


def _silence(repository: str, hub: str) -> str:
    """Why the hub does not answer; empty if it does, whatever it says of the name.

    It is asked once. `datasets` asks six times, which takes half a minute without a network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi(endpoint=hub).dataset_info(repository, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return ""
    except Exception as error:  # which it is depends on the library that the hub's client uses
        return reason(error)
    return ""


@contextmanager
def _offline(config: Any) -> Iterator[None]:
    """Inside, `datasets`, whose `config` this is, asks for nothing and reads what it has kept."""
    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _without_warnings(package: str) -> Iterator[None]:
    """Inside, a package logs no warnings, such as one for each time that it tries again."""
    logger = logging.getLogger(package)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _labelled(files: Sequence[Path]) -> Labelled:
    rows = read_rows(files)
    return Labelled(images=rows.images(), labels=rows.labels, names=rows.names)


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files at `path`: itself, or those up to two folders down, by name.

    >>> parquet_files(Path("no-such-folder"))
    []
    """
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    found = list[Path]()
    for parent, folders, names in os.walk(path):
        found += [Path(parent, name) for name in names if name.endswith(".parquet")]
        if len(Path(parent).relative_to(path).parts) == _DEEPEST:
            folders.clear()  # a user may name the whole disk
    return sorted(found)


def _splits(path: Path) -> dict[str, list[Path]]:
    """The files to train on and, if there are any, to test on."""
    groups: dict[str, dict[str, list[Path]]] = {}
    for file in parquet_files(path):
        *folders, stem = file.relative_to(path if path.is_dir() else path.parent).parts
        splits = [found[1] for part in (stem, *folders) if (found := _SPLIT.match(part))]
        others = "/".join(folder for folder in folders if not _SPLIT.match(folder))
        split = splits[0] if splits else "train"
        groups.setdefault(others, {}).setdefault(split, []).append(file)
    if not groups:
        raise UserError(
            f"{path}: no Parquet files; expected train-*.parquet and test-*.parquet, at most "
            f"{_DEEPEST} folders down"
        )
    if len(groups) > 1:
        raise UserError(
            f"{path} holds {len(groups)} configurations ({', '.join(groups)}): name the folder of "
            "one"
        )
    (found_splits,) = groups.values()
    if "train" not in found_splits:
        raise UserError(f"{path}: only {', '.join(found_splits)}; expected a file train-*.parquet")
    for name in ("test", "validation", "valid", "val"):
        if name in found_splits:
            return {"train": found_splits["train"], "test": found_splits[name]}
    return {"train": found_splits["train"]}


# ---- files


def read_rows(files: Sequence[Path], arrays: Sequence[str] = ()) -> Rows:
    """The pictures and labels in Parquet files of one layout, and the columns called `arrays`.

    Raises `UserError` for files that are damaged, expand too far, or have no such columns.

    >>> read_rows([Path("no-such.parquet")])
    Traceback (most recent call last):
    condense.errors.UserError: no-such.parquet does not exist
    """
    parts = [_read(file, arrays) for file in files]
    return Rows(
        place=files[0],
        pictures=[one for part in parts for one in part.pictures],
        labels=np.concatenate([part.labels for part in parts]),
        names=parts[0].names,
        arrays={
            name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays
        },
    )


def _read(path: Path, arrays: Sequence[str]) -> Rows:
    pa = pyarrow()
    with open_file(path) as file:
        try:
            content = pa.parquet.ParquetFile(file)
            groups = range(content.metadata.num_row_groups)
            size = sum(content.metadata.row_group(group).total_byte_size for group in groups)
            check_expanded(path, size, path.stat().st_size)
            schema = content.schema_arrow
            features = _features(schema)
            image, label = _column(path, schema, features, "Image"), _label(path, schema, features)
            wanted = [name for name in arrays if name in schema.names]
            table = _table(path, content, [image, label, *wanted])
            if table[label].null_count:
                raise UserError(f"{path}: {table[label].null_count} images have no label")
            return Rows(
                place=path,
                pictures=_pictures(path, table[image].combine_chunks()),
                labels=table[label].to_numpy().astype(np.int64),
                names=_names(features.get(label)),
                arrays={name: _dense(table[name].combine_chunks()) for name in wanted},
            )
        except UserError:
            raise
        except Exception as error:  # a reader may raise anything on damaged bytes
            said = str(error).partition("\n")[0]
            raise UserError(
                f"{path} is damaged or not a Parquet file of images ({said})"
            ) from error


def _table(path: Path, content: Any, columns: list[str]) -> Any:
    """Columns of a file, read in parts: what it keeps once may stand in any number of rows."""
    parts, size, stored = [], 0, path.stat().st_size
    for part in content.iter_batches(_ROWS, columns=columns):
        size += part.nbytes
        check_expanded(path, size, stored)
        parts.append(part)
    return pyarrow().Table.from_batches(parts) if parts else content.read(columns=columns)


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` says of each column; nothing where another program wrote the file."""
    try:
        features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _column(path: Path, schema: Any, features: dict[str, Any], kind: str) -> str:
    """The column of a kind: what the metadata says, or the one that has the usual name."""
    found = [
        name
        for name, one in features.items()
        if isinstance(one, dict) and one.get("_type") == kind and name in schema.names
    ]
    usual = {"Image": ("image", "img"), "ClassLabel": ("label", "labels")}[kind]
    named = [name for name in usual if name in (found or schema.names)]
    if not named and len(found) != 1:
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}: none is `{usual[0]}`, or the only "
            f"{kind}"
        )
    return (named or found)[0]


def _label(path: Path, schema: Any, features: dict[str, Any]) -> str:
    name = _column(path, schema, features, "ClassLabel")
    if not pyarrow().types.is_integer(schema.field(name).type):
        raise UserError(f"{path}: `{name}` is {schema.field(name).type}: labels are whole numbers")
    return name


def _pictures(path: Path, column: Any) -> list[bytes]:
    """The bytes of each picture."""
    types = pyarrow().types
    pictures = column.field("bytes") if types.is_struct(column.type) else column
    if not (types.is_binary(pictures.type) or types.is_large_binary(pictures.type)):
        raise UserError(f"{path}: its images are {column.type}, not pictures as bytes")
    if pictures.null_count:
        raise UserError(f"{path} names files of pictures, but does not hold them: embed them")
    return pictures.to_pylist()


def _dense(column: Any) -> np.ndarray:
    """A column of nested lists of equal lengths, [N, ...]."""
    shape = [len(column)]
    values = column.storage if hasattr(column, "storage") else column
    while hasattr(values, "flatten") and pyarrow().types.is_nested(values.type):
        inner = values.flatten()
        shape.append(len(inner) // max(1, len(values)))
        values = inner
    return values.to_numpy(zero_copy_only=False).reshape(shape)
