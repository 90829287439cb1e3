"""Pictures show the right pixels in the right place.

The HTML is well formed, escaped and self-contained.
"""

import base64
import io
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from condense.data.preprocess import Standardize
from condense.report import figures, pictures
from condense.report import html as report
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


@dataclass
class Result:
    accuracies: tuple[float, ...]
    mean: float
    ci95: tuple[float, float]


RESULTS = {
    "condensed": Result((0.45, 0.47), 0.46, (0.44, 0.48)),
    "random <real>": Result((0.3,), 0.3, (0.3, 0.3)),
}


class Checked(HTMLParser):
    """Every tag is closed in order; collects the text and the tags with their attributes."""

    void = frozenset({"meta", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def tiles(picture: Image.Image, colours: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Left top corner of each colour's tile of 48 x 48, which must be whole and there once."""
    array = torch.from_numpy(np.array(picture))
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
    dog_1, cat_1, dog_2, cat_2 = tiles(Image.open(path).convert("RGB"), colours)
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


def test_bars_is_a_picture_and_the_same_each_time(tmp_path):
    files = [figures.bars(tmp_path / name, RESULTS, "Digits") for name in ("a.png", "b.png")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


def test_report_is_self_contained_escaped_and_well_formed(tmp_path):
    nasty = "<script>alert('&\"')</script>"
    drawing = Image.new("RGB", (2, 2), (1, 2, 3))
    path = report.html_report(
        tmp_path / "report.html",
        nasty,
        report.section(
            nasty,
            report.paragraph(nasty),
            report.command(nasty),
            report.table([nasty, "n"], [[nasty, 3], ["x", 0.51234567]], nasty),
            report.scores(RESULTS | {nasty: RESULTS["condensed"]}, nasty),
            report.facts({nasty: {"inner": nasty}, "list": [1, 2]}),
            report.image(drawing, nasty),
        ),
    )
    page = Checked(path.read_text(encoding="utf-8"))
    assert page.text.count(nasty) == 13  # every place it was given, and the title in two
    assert "script" not in [tag for tag, _ in page.tags]
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any("href" in attributes for _, attributes in page.tags)
    for shown in ("46.0 %", "44.0 to 48.0", "random <real>", "0.5123", f"{nasty}.inner", "[1, 2]"):
        assert shown in page.text


def test_an_embedded_picture_is_the_file(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2), (9, 8, 7)).save(path)
    (source,) = [
        attributes["src"] for tag, attributes in Checked(report.image(path)).tags if tag == "img"
    ]
    content = base64.b64decode((source or "").split(",")[1])
    assert content == path.read_bytes()
    assert Image.open(io.BytesIO(content)).size == (3, 2)


def test_bars_of_scores_have_the_right_lengths():
    page = Checked(report.scores(RESULTS))
    lengths = [attributes["style"] for tag, attributes in page.tags if tag in ("i", "b")]
    assert lengths == [
        "width:46.00%",
        "left:44.00%;width:4.00%",
        "width:30.00%",
        "left:30.00%;width:0.00%",
    ]


def test_an_empty_table_is_a_table():
    assert "a" in Checked(report.table(["a", "b"], [])).text


@pytest.mark.parametrize("name", [r"$\foo$", "[/red]", "a$b", "[link=x]"])
def test_a_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(terminal(name, ["method", name], [[name, "1"]]))
    assert console.file.getvalue().count(name) == 3
    bars(tmp_path / "bars.png", {name: Score((0.4, 0.6))}, name)  # mathtext would raise
