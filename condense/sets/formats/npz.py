"""`.npz` files as MedMNIST has them: uint8 `train_images` [N, H, W(, 3)] and `train_labels`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condense.data.foreign import read_arrays
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.sets.formats.base import Read, facts_of
from condense.writing import write_bytes

_TRANSFORM = ("preprocess.mean", "preprocess.std", "preprocess.matrix")
_OWN = ("classes", "preprocess", "provenance", *_TRANSFORM)


def read(path: Path, *, own: bool = False) -> Read:
    """The images, uint8 [N, ch, H, W], and the labels; with `own` also what our exports add.

    >>> np.savez("two.npz", train_images=np.zeros((2, 8, 8), np.uint8), train_labels=[0, 1])
    >>> read(Path("two.npz")).images.shape
    torch.Size([2, 1, 8, 8])
    """
    arrays = read_arrays(path, ("train_images", "train_labels", *(_OWN if own else ())))
    if not {"train_images", "train_labels"} <= arrays.keys():
        raise UserError(
            f"{path} lacks the arrays `train_images` and `train_labels`: give a MedMNIST-style .npz"
        )
    images, labels = arrays.pop("train_images"), arrays.pop("train_labels")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"`train_images` of {path} must be uint8 [N, H, W] or [N, H, W, ch], not "
            f"{images.dtype} {list(images.shape)}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iuf":
        raise UserError(f"`train_labels` of {path} must be numbers, not {labels.dtype}")
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
    kind = np.float32 if labels.dtype.kind == "f" else np.int64
    return Read(
        images=pixels.contiguous(),
        labels=torch.from_numpy(labels.astype(kind)),
        files=[path],
        own=dict(arrays),
    )


def write(condensed: CondensedSet, path: Path) -> None:
    """Write the pixels of a set, and what else is needed to test networks.

    >>> write(CondensedSet.load("cifar10-ipc1-best").decoded(), Path("ten.npz"))
    >>> read(Path("ten.npz")).images.shape
    torch.Size([40, 3, 32, 32])
    """
    pixels = condensed.pixels().movedim(1, -1).numpy()
    own: dict[str, Any] = {name: np.asarray(value) for name, value in facts_of(condensed).items()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        train_images=pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
        train_labels=(condensed.labels if condensed.soft else condensed.labels[:, None]).numpy(),
        class_names=np.array(condensed.classes),
        **own,
    )
    write_bytes(path, buffer.getvalue())
