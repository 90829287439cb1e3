"""Pictures show the right pixels in the right place; tables show names as they are."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from condense.data.preprocess import Standardize
from condense.report import figures, pictures
from condense.report.figures import bars
from condense.report.tables import terminal
from condense.sets.condensed import CondensedSet
from condense.training.score import Score


def make_set(levels: torch.Tensor, labels: list[int], classes: tuple[str, ...]) -> CondensedSet:
    """A set of images of one grey level (or colour) each: `levels` uint8 [N, ch]."""
    pixels = levels[:, :, None, None].expand(-1, -1, 8, 8)
    preprocess = Standardize(
        mean=torch.full((levels.shape[1],), 0.5), std=torch.full((levels.shape[1],), 0.25)
    )
    return CondensedSet(preprocess.apply(pixels), torch.tensor(labels), classes, preprocess, {})


RESULTS = {
    "condensed": Score((0.45, 0.47)),
    "random <real>": Score((0.3,)),
}


def tiles(picture: Image.Image, colours: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Left top corner of each colour's tile of 48 x 48, which must be whole and there once."""
    array = torch.from_numpy(np.array(picture.convert("RGB")))
    corners = []
    for colour in colours:
        rows, columns = (array == torch.tensor(colour)).all(-1).nonzero(as_tuple=True)
        assert len(rows) == 48 * 48
        assert (rows.max() - rows.min(), columns.max() - columns.min()) == (47, 47)
        corners.append((int(columns.min()), int(rows.min())))
    return corners


def test_a_row_a_class_in_the_order_of_the_set(tmp_path):
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]
    condensed = make_set(
        torch.tensor(colours, dtype=torch.uint8), [1, 0, 1, 0], ("cat", "dog", "absent")
    )
    path = pictures.grid(condensed, tmp_path / "grid.png")
    dog_1, cat_1, dog_2, cat_2 = tiles(Image.open(path), colours)
    assert cat_1[1] == cat_2[1] < dog_1[1] == dog_2[1]
    assert cat_1[0] == dog_1[0] < cat_2[0] == dog_2[0]


def test_at_most_per_class_images_are_shown_and_grey_is_grey():
    condensed = make_set(
        torch.tensor([[30], [60], [90]], dtype=torch.uint8), [0, 0, 0], (" ",)
    )  # a name would add greys
    picture = pictures.picture(condensed, per_class=2)
    tiles(picture, [(30, 30, 30), (60, 60, 60)])
    with pytest.raises(AssertionError):
        tiles(picture, [(90, 90, 90)])


@pytest.mark.parametrize("num_classes", [1, 2, 10, 100])
def test_pictures_of_many_classes_stay_about_square(num_classes):
    colours = [(c, 255 - c, 128) for c in range(num_classes)]
    levels = torch.tensor(colours, dtype=torch.uint8).repeat(
        5, 1
    )  # five images a class, of one colour
    names = tuple(f"class {c}" for c in range(num_classes))
    picture = pictures.picture(make_set(levels, list(range(num_classes)) * 5, names), per_class=1)
    many = pictures.picture(make_set(levels, list(range(num_classes)) * 5, names))
    tiles(picture, colours)
    if num_classes >= 10:
        assert all(0.4 < one.width / one.height < 2.5 for one in (picture, many))


def test_any_class_name_is_drawn():
    names = ("\udc80", "a\nb", "x" * 100_000, "\x1b[31m", "")
    levels = torch.zeros(len(names), 1, dtype=torch.uint8)
    picture = pictures.picture(make_set(levels, list(range(len(names))), names))
    assert picture.width < 1000


def test_bars_is_a_picture_and_the_same_each_time(tmp_path):
    files = [figures.bars(tmp_path / name, RESULTS, "Digits") for name in ("a.png", "b.png")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


@pytest.mark.parametrize("name", [r"$\foo$", "[/red]", "a$b", "[link=x]"])
def test_a_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(terminal(name, ["method", name], [[name, "1"]]))
    assert console.file.getvalue().count(name) == 3
    bars(tmp_path / "bars.png", {name: Score((0.4, 0.6))}, name)  # mathtext would raise


def test_bars_are_drawn_of_any_name(tmp_path: Path) -> None:
    bars(tmp_path / "bars.png", {"\udc80\n$": Score((0.4, 0.6))}, "\udc80" + "x" * 5000)
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.width < 2000
