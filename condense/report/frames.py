"""The images of a set as a block of a report: one picture for each step, in which they are tiles.

A report of CIFAR-10 with 50 images per class stays below 6 MB: images are embedded without loss
where that is small, and of the steps between the start and the end as many as there is room for.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from condense.report.blocks import Frame, Pictures
from condense.sets.condensed import CondensedSet

if TYPE_CHECKING:
    from PIL import Image

_MOST_PIXELS = 2**21
"""Pixels of a picture at most; of larger sets some images are shown."""
_LOSSLESS_PIXELS = 2**19 + 2**15
"""Pixels of the largest picture that is embedded without loss: 500 images of 32 px are."""
_MOST_BYTES = 3_400_000
"""Bytes of the pictures of a set in a report, before they become text, which takes a third more."""


@dataclass(frozen=True)
class Tiles:
    """Which images of a set are shown, by class, and how they lie in a picture.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> tiles = Tiles.of(noise(digits, 2, preprocess=preprocess, seed=0))
    >>> tiles.across, tiles.classes[0]
    (5, ('0', 2))
    """

    images: tuple[int, ...]
    """Their positions in the set, ordered by class."""
    classes: tuple[tuple[str, int], ...]
    """The name of each class that is shown, and how many of its images are."""
    left_out: int
    """Images that are not shown."""

    @classmethod
    def of(cls, condensed: CondensedSet) -> "Tiles":
        """All images, or as many of each class as a picture has room for."""
        _, height, width = condensed.shape
        room = max(1, _MOST_PIXELS // (height * width))
        class_of = condensed.class_of()
        present = class_of.unique().tolist()[:room]
        each = max(1, room // len(present))
        of_class = {c: (class_of == c).nonzero()[:each, 0].tolist() for c in present}
        images = tuple(at for chosen in of_class.values() for at in chosen)
        classes = tuple((condensed.classes[c], len(chosen)) for c, chosen in of_class.items())
        return cls(images, classes, len(condensed) - len(images))

    @property
    def across(self) -> int:
        """Tiles in a row of the picture, which is about square."""
        return math.ceil(math.sqrt(len(self.images)))

    def picture(self, condensed: CondensedSet) -> "Image.Image":
        """The images as they are in a set: the one that the tiles are of, or an earlier state."""
        from PIL import Image

        pixels = _displayable(condensed.pixels()[list(self.images)])
        _, channels, height, width = pixels.shape
        down = math.ceil(len(pixels) / self.across)
        sheet = pixels.new_zeros(down * self.across, channels, height, width)
        sheet[: len(pixels)] = pixels
        rows = sheet.view(down, self.across, channels, height, width).permute(0, 3, 1, 4, 2)
        array = rows.reshape(down * height, self.across * width, channels).numpy()
        return Image.fromarray(array[..., 0] if channels == 1 else array)


def pictures(
    result: CondensedSet,
    start: CondensedSet | None = None,
    steps: "Sequence[tuple[str, Image.Image]]" = (),
) -> Pictures:
    """The images of a set, beside those it started from, and what they were like in between.

    `steps` are labels and pictures of `Tiles.of(result)` in order.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> block = pictures(noise(digits, 2, preprocess=preprocess, seed=0))
    >>> [frame.label for frame in block.frames], block.frames[0].source[:22]
    (['result'], 'data:image/png;base64,')
    """
    tiles = Tiles.of(result)
    ends = [("result", _encoded(tiles.picture(result)))]
    if start is not None:
        ends.insert(0, ("start", _encoded(tiles.picture(start))))
    room = _MOST_BYTES - sum(len(content) for _, content in ends)
    between = [(label, _encoded(image, lossy=True)) for label, image in steps]
    while between and sum(len(content) for _, content in between) > room:
        del between[::2]
    _, height, width = result.shape
    side, notes = result.formation, []
    if side > 1:
        notes.append(f"Each image is a mosaic of {side} x {side}, enlarged before training.")
    if tiles.left_out:
        notes.append(f"Not shown: {tiles.left_out} of {len(result)} images.")
    return Pictures(
        classes=tiles.classes,
        frames=[
            Frame(label=label, source=_uri(content))
            for label, content in [*ends[:-1], *between, ends[-1]]
        ],
        across=tiles.across,
        height=height,
        width=width,
        note=" ".join(notes),
    )


def _displayable(pixels: Tensor) -> Tensor:
    """Pixels uint8 [N, ch, H, W] with one or three channels: the mean of others."""
    if pixels.shape[1] in (1, 3):
        return pixels
    return pixels.float().mean(dim=1, keepdim=True).to(torch.uint8)


def _encoded(image: "Image.Image", *, lossy: bool = False) -> bytes:
    """PNG where that is small, or else WebP."""
    buffer = io.BytesIO()
    pixels = image.width * image.height
    if pixels <= _LOSSLESS_PIXELS and not (lossy and pixels > _LOSSLESS_PIXELS // 16):
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="WEBP", quality=70 if lossy else 88)
    return buffer.getvalue()


def _uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
