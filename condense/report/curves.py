"""Loss curves and image grids for TensorBoard, where it is installed."""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from condense.sets.condensed import CondensedSet


class Curves:
    """What a run draws; nothing where there is no writer."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def losses(self, step: int, losses: Mapping[str, float], seconds: float) -> None:
        """Each part of the loss, their sum, and the time of a step."""
        if self._writer:
            for name, loss in losses.items():
                self._writer.add_scalar(f"loss/{name}", loss, step)
            self._writer.add_scalar("loss/total", sum(losses.values()), step)
            self._writer.add_scalar("seconds a step", seconds, step)

    def picture(self, step: int, state: CondensedSet) -> None:
        """Up to ten images of each of the first ten classes."""
        if self._writer:
            pixels, classes = state.pixels(), range(min(len(state.classes), 10))
            self._writer.add_images(
                "images", torch.cat([pixels[state.class_of() == c][:10] for c in classes]), step
            )


@contextlib.contextmanager
def curves(folder: Path | None, done: int) -> Iterator[Curves]:
    """Curves in `folder`/tensorboard from step `done` on; none without a folder, or without TensorBoard, said once."""
    if folder is None:
        yield Curves(None)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports warn
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
