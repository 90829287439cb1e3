"""Loss curves and pictures of a run: for its report, and for TensorBoard if it is installed."""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from condense.report.history import History, keep_frame, resumed
from condense.sets.condensed import CondensedSet


class Curves:
    """What a run records: for TensorBoard with a `writer`, and for its report with a `folder`.

    >>> class Printer:  # in place of TensorBoard's SummaryWriter
    ...     def add_scalar(self, name: str, value: float, step: int) -> None:
    ...         print(name, value, step)
    >>> Curves(Printer()).losses(10, {"mmd": 0.5, "attention": 0.25}, seconds=0.1)
    loss/mmd 0.5 10
    loss/attention 0.25 10
    loss/total 0.75 10
    seconds a step 0.1 10
    """

    def __init__(self, writer: Any, folder: Path | None = None, done: int = 0) -> None:
        self._writer, self._folder = writer, folder
        self._history = resumed(folder, done) if folder else History()

    def losses(self, step: int, losses: Mapping[str, float], seconds: float) -> None:
        """Record each term of the loss, their sum, and the time of a step."""
        self._history.add(step, losses, seconds)
        if self._writer:
            for name, loss in losses.items():
                self._writer.add_scalar(f"loss/{name}", loss, step)
            self._writer.add_scalar("loss/total", sum(losses.values()), step)
            self._writer.add_scalar("seconds a step", seconds, step)

    def picture(self, step: int, state: CondensedSet) -> None:
        """Record the images, and write what the report needs into the folder.

        TensorBoard gets up to ten images of each of the first ten classes.
        """
        if self._folder:
            keep_frame(self._folder, step, state)
        self.save()
        if self._writer:
            pixels, classes = state.pixels(), range(min(len(state.classes), 10))
            self._writer.add_images(
                "images", torch.cat([pixels[state.class_of() == c][:10] for c in classes]), step
            )

    def save(self) -> None:
        """Write the losses and times so far into the folder, for the report.

        >>> Curves(None).save()  # without a folder there is nowhere to write
        """
        if self._folder and self._history.steps:
            self._history.save(self._folder)


@contextlib.contextmanager
def curves(folder: Path | None, done: int) -> Iterator[Curves]:
    """Record curves in `folder` and in `folder`/tensorboard, from step `done` on.

    Without a folder nothing is recorded. Without TensorBoard one message says that its curves are
    not written.

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
            "TensorBoard is not installed: its curves are not written (pip install tensorboard)",
            file=sys.stderr,
        )
        run = Curves(None, folder, done)
        yield run
        run.save()
        return
    with SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1) as writer:
        run = Curves(writer, folder, done)
        yield run
        run.save()
