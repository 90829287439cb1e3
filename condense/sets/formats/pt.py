"""`.pt` files: `{"data": [[images, labels], ...]}` as of DC, DSA, DM and DataDAM, or two tensors.

The images are preprocessed floats. MTT and others write images and labels into two files.
"""

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.data.foreign import dense, read_tensors
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.sets.formats.base import Read, facts_of
from condense.writing import write_bytes

PAIRS = ("images_best.pt", "images.pt")
"""The files in a folder that have labels beside them."""


def read(path: Path, experiment: int) -> Read:
    """Images and labels of any published `.pt` layout.

    >>> torch.save([torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])], "two.pt")
    >>> read(Path("two.pt"), experiment=0).labels
    tensor([0, 1])
    """
    if path.is_dir():
        path = next(path / name for name in PAIRS if (path / name).exists())
    files = [path]
    content, accuracies, own = read_tensors(path), {}, {}
    if isinstance(content, Tensor) and path.name.startswith("images"):
        files.append(path.with_name(path.name.replace("images", "labels", 1)))
        if not files[1].exists():
            raise UserError(f"{files[1]} does not exist, but its other half does: both are needed")
        content = [content, read_tensors(files[1])]
    if isinstance(content, dict) and isinstance(content.get("data"), list | tuple):
        accuracies = _accuracies(content.get("accs_all_exps"))
        experiments = content["data"]
        own = {str(key): value for key, value in content.items() if key != "data"}
        if not 0 <= experiment < len(experiments):
            raise UserError(
                f"{path} holds {len(experiments)} experiments (from 0): "
                f"there is no experiment {experiment}"
            )
        content = experiments[experiment]
    match content:
        case [Tensor() as images, Tensor() as labels]:
            images, labels = (dense(path, one) for one in (images, labels))
        case _:
            raise UserError(
                f"{path} holds neither `data: [[images, labels], ...]` nor an images and a labels "
                "tensor"
            )
    check_kinds(path, images, labels)
    return Read(images=images, labels=labels, files=files, accuracies=accuracies, own=own)


def check_kinds(path: Path, images: Tensor, labels: Tensor) -> None:
    """Raise a `UserError` unless the types of images and labels are those of a set.

    >>> check_kinds(Path("a.pt"), torch.zeros(1).bool(), torch.zeros(1))
    Traceback (most recent call last):
    condense.errors.UserError: a.pt holds images of torch.bool and labels of torch.float32: ...
    """
    if (images.dtype != torch.uint8 and not images.is_floating_point()) or labels.is_complex():
        raise UserError(
            f"{path} holds images of {images.dtype} and labels of {labels.dtype}: images must be "
            "uint8 pixels or preprocessed floats, labels numbers"
        )


def _accuracies(published: Any) -> dict[str, list[float]]:
    """The accuracies by network, of all experiments, where a file has them as DC publishes them."""
    if not isinstance(published, dict):
        return {}
    return {
        name: [float(value) for value in values]
        for name, values in published.items()
        if isinstance(name, str)
        and isinstance(values, list)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    }


def write(condensed: CondensedSet, path: Path) -> None:
    """Write a set as such a file, with what else is needed to test networks.

    >>> write(CondensedSet.load("cifar10-ipc1-best").decoded(), Path("ten.pt"))
    >>> len(read(Path("ten.pt"), experiment=0).images)
    40
    """
    write_tensors(path, {"data": [[condensed.images, condensed.labels]], **facts_of(condensed)})


def write_tensors(path: Path, content: Any) -> None:
    """Write tensors in lists and dicts as a `.pt` file.

    >>> write_tensors(Path("lr.pt"), torch.tensor(0.01))
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
