"""A page is one file: well formed, escaped, without anything to load; and what it says is right."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condense.data.preprocess import Standardize
from condense.report import blocks, frames, history
from condense.report.blocks import Command, Details, Explorer, Facts, Heat, Report, Section, Table
from condense.report.page import render
from condense.sets.condensed import CondensedSet
from condense.training.score import Score

NASTY = "<script>alert('&\"')</script>"


class Checked(HTMLParser):
    """Every tag is closed in order; collects the text and the tags with their attributes."""

    void = frozenset({"meta", "img", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            if "type" in self.tags[-1][1]:
                self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text += data


def make_set(levels: list[int], labels: list[int], side: int = 8) -> CondensedSet:
    """A set of grey images of one level each."""
    pixels = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]
    preprocess = Standardize(mean=torch.full((1,), 0.5), std=torch.full((1,), 0.25))
    images = preprocess.apply(pixels.expand(-1, 1, side, side))
    classes = ("cat", "dog", "absent")
    return CondensedSet(images, torch.tensor(labels), classes, preprocess, {})


def decoded(source: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


def page_of(*of: blocks.Block, title: str = "Title") -> Checked:
    return Checked(render([Report(title, [Section("Section", *of)])], title))


def test_every_block_is_escaped_and_the_page_loads_nothing() -> None:
    table = Table([NASTY, "n"], [[NASTY, 3], ["x", 0.51234567]], NASTY)
    page = page_of(
        blocks.Text(NASTY),
        Command(NASTY),
        table,
        blocks.scores({NASTY: Score((0.4, 0.5))}, {NASTY: (54.2, 0.8)}, NASTY),
        Facts({NASTY: {"inner": NASTY}, "list": [1, 2], "none": None, "flag": True}),
        Details(NASTY, [Facts({NASTY: 1})]),
        Heat(NASTY, [NASTY], [NASTY], [[40.0]]),
        Explorer([NASTY, "arch"], [[1, NASTY]], NASTY, NASTY),
        frames.pictures(make_set([10, 20], [0, 1])),
        title=NASTY,
    )
    assert page.text.count(NASTY) >= 16
    assert not any(tag in ("link", "iframe") for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert not any(name.startswith("on") for name in attributes)
    assert len([json.loads(script) for script in page.scripts]) == 2
    assert NASTY not in "".join(page.scripts)
    assert "0.5123" in page.text
    assert "yes" in page.text


def test_the_plotting_library_is_embedded_once_and_only_where_it_is_needed() -> None:
    chart = blocks.scores({"dm": Score((0.4, 0.5))})
    with_charts = render([Report("One", [Section("A", chart, chart)])] * 2, "Both")
    assert with_charts.count("vegaEmbed=") == 1
    assert len(render([Report("One", [Section("A", blocks.Text("b"))])], "One")) < 40_000


def test_tiles_lie_by_class_and_show_the_start_and_the_end() -> None:
    start, result = make_set([10, 20, 30], [1, 0, 1]), make_set([110, 120, 130], [1, 0, 1])
    block = frames.pictures(result, start)
    assert block.tiles == [("cat", [0]), ("dog", [1, 2])]
    assert [frame.label for frame in block.frames] == ["start", "result"]
    for frame, levels in zip(block.frames, ([20, 10, 30, 0], [120, 110, 130, 0]), strict=True):
        corners = decoded(frame.source)[::8, ::8]
        assert corners.flatten().tolist() == levels


def test_images_that_have_no_room_are_counted() -> None:
    block = frames.pictures(make_set([10, 20, 30], [0, 0, 1], side=1024))
    assert block.classes == (("cat", 1), ("dog", 1))
    assert block.note == "Not shown: 1 of 3 images."


def test_mosaics_are_explained() -> None:
    mosaics = dataclasses.replace(make_set([10, 20], [0, 1]), formation=2)
    assert frames.pictures(mosaics).note == (
        "Each image is a mosaic of 2 x 2, enlarged before training."
    )


def test_a_command_breaks_between_its_words_alone() -> None:
    text = "condensekit condense --set pool_steps=13"
    page = page_of(Command(text))
    assert text in page.text
    assert [tag for tag, _ in page.tags].count("span") == 4


def test_a_history_is_thinned_and_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    kept = history.History()
    for step in range(1, 2002):
        kept.add(step, {"mmd": 1 / step}, seconds=0.5)
    assert len(kept.steps) <= 1000
    kept.save(tmp_path)
    again = history.resumed(tmp_path, done=500)
    assert again.steps == [step for step in kept.steps if step <= 500]
    assert again.losses["mmd"] == pytest.approx([1 / step for step in again.steps])


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": [1], "seconds": [], "losses": {}}', "1"])
def test_a_damaged_history_is_begun_again(content: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "history.json").write_text(content)
    assert history.resumed(tmp_path, done=5).steps == []
    assert "history.json" in capsys.readouterr().err


def test_frames_are_thinned_and_damaged_ones_left_out(tmp_path: Path) -> None:
    for step in range(1, 20):
        history.keep_frame(tmp_path, step, make_set([step], [0]))
    kept = history.frames(tmp_path)
    assert 4 <= len(kept) <= 8
    assert all(np.array(image).max() == step for step, image in kept)
    (tmp_path / "frames" / f"step-{kept[0][0]:08d}.png").write_bytes(b"no picture")
    assert [step for step, _ in history.frames(tmp_path)] == [step for step, _ in kept[1:]]


def test_accuracies_of_all_runs_have_the_same_axis() -> None:
    low, high = blocks.scores({"dm": Score((0.2, 0.3))}), blocks.scores({"dm": Score((0.9, 0.95))})
    domains = [
        layer["encoding"]["x"]["scale"]["domain"]
        for chart in (low, high)
        for layer in chart.spec["layer"]
    ]
    assert domains == [[0, 100]] * 4
