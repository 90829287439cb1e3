"""Folders of Hugging Face `datasets`: Parquet files, and a dataset card that says where they are.

    README.md                              the card; its first lines name the configuration
    ipc10/train-00000-of-00001.parquet     image (PNG), label, preprocessed (every bit of the
                                           image), and soft_label where labels are soft
    set.safetensors                        the set as this package has it

pyarrow writes and reads them; `datasets` is not needed.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from condense.data.parquet import METADATA, parquet_files, pyarrow, read_rows
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.sets.formats.base import Read
from condense.sets.formats.pictures import as_picture, check_picture, same_size
from condense.writing import write_bytes

EXACT, SOFT = "preprocessed", "soft_label"
"""The columns with the floats of each image, and with its soft label."""
_KIND = "ARROW:extension:name"
_OF_KIND = "ARROW:extension:metadata"
_ARRAY_3D = "datasets.features.features.Array3DExtensionType"


def read(path: Path) -> Read:
    """The images and labels in the Parquet files of a folder.

    Floats of the column `preprocessed` are preferred to pictures.

    >>> write(CondensedSet.load("cifar10-ipc1-best").decoded(), Path("ten"))
    >>> read(Path("ten")).images.shape
    torch.Size([40, 3, 32, 32])
    """
    files = [file for file in parquet_files(path) if "test" not in file.stem]
    rows = read_rows(files, (EXACT, SOFT))
    if EXACT in rows.arrays:
        images = torch.from_numpy(rows.arrays[EXACT].copy())
    else:
        images = same_size(list(rows.images()), [f"row {row}" for row in range(len(rows.labels))])
    labels = torch.from_numpy(rows.arrays[SOFT].copy() if SOFT in rows.arrays else rows.labels)
    return Read(images=images, labels=labels, files=files, names=rows.names)


def write(condensed: CondensedSet, folder: Path) -> None:
    """Write the Parquet file into an empty folder.

    Raises `UserError` for images that are no pictures, and where pyarrow is not installed.

    >>> write(CondensedSet.load("cifar10-ipc1-best").decoded(), Path("one"))
    >>> [file.as_posix() for file in Path("one").rglob("*.parquet")]
    ['one/ipc4/train-00000-of-00001.parquet']
    """
    pa = pyarrow()
    check_picture(condensed)
    channels, height, width = condensed.shape
    columns: dict[str, Any] = {
        "image": pa.array(
            [{"bytes": _png(pixels), "path": None} for pixels in condensed.pixels()],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "label": pa.array(condensed.class_of().tolist(), pa.int64()),
        EXACT: _nested(pa, condensed.images.numpy(), (channels, height, width)),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(condensed.classes), "_type": "ClassLabel"},
        EXACT: {"shape": [channels, height, width], "dtype": "float32", "_type": "Array3D"},
    }
    if condensed.soft:
        size = len(condensed.classes)
        soft = pa.array(condensed.labels.numpy().reshape(-1))
        columns[SOFT] = pa.FixedSizeListArray.from_arrays(soft, size)
        value = {"dtype": "float32", "_type": "Value"}
        features[SOFT] = {"feature": value, "length": size, "_type": "List"}
    # `datasets` reads nested lists as an array only if the column says so.
    array = {_KIND: _ARRAY_3D, _OF_KIND: json.dumps([condensed.shape, "float32"])}
    schema = pa.schema(
        [
            pa.field(name, column.type, metadata=array if name == EXACT else None)
            for name, column in columns.items()
        ],
        metadata={METADATA: json.dumps({"info": {"features": features}})},
    )
    table = pa.table(columns, schema=schema)
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink)
    name = f"ipc{condensed.ipc}"
    write_bytes(folder / name / "train-00000-of-00001.parquet", sink.getvalue())


def matched(labels: torch.Tensor, names: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """Labels that count `names`, as labels of `classes`, which may have another order.

    Raises `UserError` for a name that is no class.

    >>> matched(torch.tensor([0, 1, 1]), ("dog", "cat"), ("cat", "dog"))
    tensor([1, 0, 0])
    """
    if tuple(names) == tuple(classes):
        return labels
    strange = sorted(set(names) - set(classes))
    if strange or len(set(names)) < len(names):
        raise UserError(
            f"its classes ({', '.join(names[:3])}, ...) are not those of the dataset "
            f"({', '.join(classes[:3])}, ...): name the dataset it was made from"
        )
    place = torch.tensor([list(classes).index(name) for name in names])
    if labels.ndim == 1:
        return place[labels]
    return labels.new_zeros(len(labels), len(classes)).index_copy(1, place, labels)


def _png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    as_picture(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _nested(pa: Any, values: Any, shape: Sequence[int]) -> Any:
    """An array [N, *shape] as a column of nested lists."""
    column = pa.array(values.reshape(-1))
    for size in reversed(shape):
        count = len(column) // size
        column = pa.ListArray.from_arrays(range(0, (count + 1) * size, size), column)
    return column
