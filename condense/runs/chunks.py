"""How many classes are treated at once."""

import torch
from torch import Tensor

from condense.errors import UserError

_SYNTHETIC_PIXELS = {"cpu": 50 * 1024, "cuda": 512 * 1024}
"""Pixels of the synthetic images that a chunk aims at.

They fit into a CPU's cache, and keep a GPU busy with little memory."""
_REAL_PIXELS = {"cpu": 2**62, "cuda": 8 * 1024 * 1024}
"""The most pixels of the real images that are drawn for a chunk, unless one class has more.

On a GPU they take 100 MB in colour, and several times as much while they are augmented. A CPU has
the memory: its chunks follow from the synthetic images alone."""


def chunks_of(
    num_classes: int,
    synthetic: int,
    real: int,
    chunk: int | None = None,
    *,
    joint: bool,
    device: torch.device,
    ranks: int = 1,
) -> list[Tensor]:
    """All classes, int64 [C] on `device`, in chunks of `chunk` classes, or as suits the device.

    The number that suits divides the number of classes, because each further shape would be
    compiled and captured anew. It leaves every rank at least one chunk, if there are as many
    classes as ranks.

    Parameters
    ----------
    synthetic, real: pixels of the synthetic and of the real images of a class in a step.
    joint: whether the network's statistics join all classes, which then are one chunk.

    Raises `UserError` for a `chunk` that would divide what is joined, and below 1.

    >>> loads = 10 * 32 * 32, 256 * 32 * 32
    >>> chunks = chunks_of(10, *loads, joint=False, device=torch.device("cpu"))
    >>> [len(chunk) for chunk in chunks]
    [5, 5]
    """
    if joint:
        if chunk is not None and chunk < num_classes:
            raise UserError(
                f"--chunk {chunk}: BatchNorm joins all {num_classes} classes in its statistics; "
                "leave --chunk out, or use an instance norm"
            )
        chunk = num_classes
    elif chunk is None:
        kind = device.type
        fitting = min(_SYNTHETIC_PIXELS[kind] // synthetic, _REAL_PIXELS[kind] // real)
        most = max(1, min(num_classes // ranks, fitting))
        chunk = max(size for size in range(1, most + 1) if num_classes % size == 0)
    if chunk < 1:
        raise UserError(f"--chunk {chunk}: it must be 1 or more")
    return list(torch.arange(num_classes, device=device).split(chunk))
