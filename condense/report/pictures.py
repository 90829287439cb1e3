"""A condensed set as one picture."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from condense.sets.condensed import CondensedSet
from condense.writing import write_bytes

if TYPE_CHECKING:
    from PIL import Image
from condense.report.figures import drawable, png_bytes

_GREY = "#7d7d7d"
_LONGEST = 60
"""The most characters of a class name that are written."""


def picture(condensed: CondensedSet, per_class: int = 10, cell: int = 48) -> "Image.Image":
    """The set as one picture, with a row for each class that has images.

    A row shows the name of the class, then up to `per_class` images. An image is enlarged by the
    smallest whole factor that makes it at least `cell` pixels high. Many classes are laid out in
    several columns, so that the picture is roughly square. Its ground is transparent, and the grey
    of the names can be read on white and on black.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> picture(noise(digits, 3, preprocess=preprocess, seed=0)).mode
    'RGBA'
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    pixels = condensed.pixels().movedim(1, -1).numpy()
    height, width, channels = pixels.shape[1:]
    if channels not in (1, 3):
        pixels = pixels.mean(axis=-1, keepdims=True).astype(np.uint8)
    zoom = math.ceil(cell / height)
    height, width, gap = height * zoom, width * zoom, 4
    class_of = condensed.class_of().numpy()
    present = np.unique(class_of).tolist()
    shown = min(per_class, condensed.ipc)

    font = ImageFont.truetype(_font(), 14)
    names = {c: drawable(condensed.classes[c], _LONGEST) for c in present}
    margin = 2 * gap + math.ceil(max(map(font.getlength, names.values())))
    row, block = height + gap, margin + shown * (width + gap) + 2 * gap
    blocks = max(1, round(math.sqrt(len(present) * row / block)))
    rows = math.ceil(len(present) / blocks)
    size = math.ceil(len(present) / rows) * block, rows * row + gap
    canvas = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    for place, c in enumerate(present):
        left, top = place // rows * block, place % rows * row + gap
        end = left + margin - gap, top + height // 2
        draw.text(end, names[c], fill=_GREY, font=font, anchor="rm")
        for column, one in enumerate(pixels[class_of == c][:shown]):
            tile = Image.fromarray(one.squeeze(-1) if one.shape[-1] == 1 else one)
            large = tile.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(large, (left + margin + column * (width + gap), top))
    return canvas


def _font() -> Path:
    """DejaVu Sans, which comes with matplotlib: it has Latin, Greek, Cyrillic, Arabic and more."""
    spec = find_spec("matplotlib")  # which takes long to import
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def grid(condensed: CondensedSet, path: str | Path, per_class: int = 10) -> Path:
    """Write `picture(condensed, per_class)` as a PNG; returns the file.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> grid(noise(digits, 3, preprocess=preprocess, seed=0), "grid.png").name
    'grid.png'
    """
    write_bytes(Path(path), png_bytes(picture(condensed, per_class)))
    return Path(path)
