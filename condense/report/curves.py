"""Loss curves and pictures for TensorBoard, if it is installed."""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from condense.sets.condensed import CondensedSet


class Curves:
    """What a run records for TensorBoard. Without a `writer` nothing is recorded.

    >>> class Printer:  # in place of TensorBoard's SummaryWriter
    ...     def add_scalar(self, name: str, value: float, step: int) -> None:
    ...         print(name, value, step)
    >>> Curves(Printer()).losses(10, {"mmd": 0.5, "attention": 0.25}, seconds=0.1)
    loss/mmd 0.5 10
    loss/attention 0.25 10
    loss/total 0.75 10
    seconds a step 0.1 10
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def losses(self, step: int, losses: Mapping[str, float], seconds: float) -> None:
        """Record each term of the loss, their sum, and the time of a step."""
        if self._writer:
            for name, loss in losses.items():
                self._writer.add_scalar(f"loss/{name}", loss, step)
            self._writer.add_scalar("loss/total", sum(losses.values()), step)
            self._writer.add_scalar("seconds a step", seconds, step)

    def picture(self, step: int, state: CondensedSet) -> None:
        """Record up to ten images of each of the first ten classes."""
        if self._writer:
            pixels, classes = state.pixels(), range(min(len(state.classes), 10))
            self._writer.add_images(
                "images", torch.cat([pixels[state.class_of() == c][:10] for c in classes]), step
            )


@contextlib.contextmanager
def curves(folder: Path | None, done: int) -> Iterator[Curves]:
    """Record curves in `folder`/tensorboard, from step `done` on.

    Without a folder nothing is recorded. Without TensorBoard nothing is recorded either, and one
    message says so.

    >>> with curves(folder=None, done=0) as run:
    ...     run.losses(10, {"mmd": 0.5}, seconds=0.1)
    """
    if folder is None:
        yield Curves(None)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own imports give warnings
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard is not installed: no curves are written (pip install tensorboard)",
            file=sys.stderr,
        )
        yield Curves(None)
        return
    with SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1) as writer:
        yield Curves(writer)
