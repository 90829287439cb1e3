"""Reports in a real browser: they fit, they can be read by all, and what moves in them works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from condense.report.page import write
from nas.ranking import Ranking
from nas.report import report

Show = Callable[..., Any]
TINY = ("--dataset", "digits", "--ipc", "2", "--device", "cpu")


def command(*arguments: object) -> None:
    result = CliRunner().invoke(cli.cli, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def evaluate(run: Path, *networks: str) -> None:
    chosen = [part for network in networks for part in ("--network", network)]
    command("evaluate", run, *chosen, "--repeats", 2, "--epochs", 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A condensation and a selection, both evaluated, and the page that compares them."""
    folder = tmp_path_factory.mktemp("runs")
    made = ("--recipe", "dm", "--network", "convnet-d1-w8", "--real-batch", 4, "--steps", 6)
    command("condense", *TINY, *made, "--checkpoint-every", 2, "--out", folder / "dm")
    command("select", *TINY, "--out", folder / "random")
    evaluate(folder / "dm", "mlp", "convnet-d1-w8")
    evaluate(folder / "random", "mlp")
    command("report", folder / "dm", folder / "random", "--out", folder / "both.html")
    return folder


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a ranking of fifty cells with a truth."""
    count, draws = 50, np.random.default_rng(0)
    truth = draws.uniform(0.5, 0.9, count)
    columns = {"random accuracy": truth / 2 + draws.normal(0, 0.02, count)}
    columns["random accuracy"][7] = np.nan
    columns["random accuracy + free"] = columns["free"] = draws.uniform(size=count)
    columns["parameters"] = 1e4 * np.arange(1, count + 1) ** 1.5
    nothing, indices = {"random": np.zeros(count)}, tuple(range(100, 100 + count))
    ranking = Ranking(
        "nasbench201", indices, columns, nothing, nothing, by="random accuracy", truth=truth
    )
    folder = tmp_path_factory.mktemp("nas")
    page = report(ranking, ["a note"], {"seeds": 3}, folder, "condensekit nas --space nasbench201")
    return write(folder / "report.html", page)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a continual run of two methods."""
    folder = tmp_path_factory.mktemp("continual") / "run"
    plan = ("--steps", 2, "--orders", 3, "--repeats", 1, "--epochs", 1, "--network", "mlp")
    methods = ("--method", "random", "--method", "dm:real_batch=4", "--condense-steps", 1)
    command("continual", *TINY, *plan, *methods, "--out", folder, "--json")
    return folder / "report.html"


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1280, "light"), (1280, "dark")])
def test_every_kind_of_report_fits_and_can_be_read_by_all(
    runs: Path, search: Path, stream: Path, shown: Show, width: int, theme: str, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    pages = {"dm": runs / "dm" / "report.html", "both": runs / "both.html"}
    pages |= {"nas": search, "continual": stream}
    for name, file in pages.items():
        page = shown(file, width, theme)
        page.screenshot(path=tmp_path / f"{name}-{width}-{theme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if (width, theme) == (1280, "light"):
            continue  # what can be read is the same as at the other width, and in the other theme
        for summary in page.locator("summary").all():
            summary.click()
        found = axe.run(page).response["violations"]
        serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], (name, [one for one in found if one["id"] in serious])


def test_a_slider_shows_the_steps_and_a_click_enlarges_an_image(runs: Path, shown: Show) -> None:
    page = shown(runs / "dm" / "report.html")
    chosen = page.locator("button.tile").first
    picture = "tile => getComputedStyle(tile).backgroundImage"
    at_end = chosen.evaluate(picture)
    slider = page.get_by_role("slider", name="Step")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".step + output").inner_text() == "step 2"
    assert chosen.evaluate(picture) != at_end
    page.keyboard.press("End")
    assert page.locator(".step + output").inner_text() == "result"
    assert chosen.evaluate(picture) == at_end

    chosen.click()
    dialog = page.get_by_role("dialog")
    assert "0 1 of 2" in dialog.inner_text()
    assert dialog.locator(".tile").count() == 2
    assert dialog.locator(".tile").first.bounding_box()["width"] > 200
    page.keyboard.press("ArrowRight")
    assert "0 2 of 2" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_tables_sort_and_points_say_what_they_are(runs: Path, shown: Show) -> None:
    page = shown(runs / "both.html")
    names = page.locator("table.sortable").first.locator("tbody td:first-child")
    header = page.get_by_role("button", name="run", exact=True)
    header.click()
    assert names.all_inner_texts() == ["dm", "random"]
    header.click()
    assert names.all_inner_texts() == ["random", "dm"]
    page.locator(".plot svg path[transform]").last.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "accuracy, %" in tooltip.inner_text()


def test_candidates_are_brushed_filtered_sorted_and_drawn(search: Path, shown: Show) -> None:
    page = shown(search)
    told = page.locator(".explorer output")
    rows = page.locator(".explorer tbody tr")
    assert told.inner_text() == "50 of 50"
    assert rows.count() == 25
    assert rows.locator("svg.cell path").count() > 50

    page.get_by_label("Only the best 20 %").check()
    assert told.inner_text() == "10 of 50"
    page.get_by_label("Only the best 20 %").uncheck()

    box = page.locator(".explorer .plot svg").bounding_box()
    left, top = box["x"] + 0.6 * box["width"], box["y"] + 0.2 * box["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.35 * box["width"], top + 0.5 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_function("!document.querySelector('.explorer output').value.startsWith('50 ')")
    brushed = int(told.inner_text().split()[0])
    assert 0 < brushed < 50
    page.mouse.dblclick(left + 10, top + 10)
    page.wait_for_function("document.querySelector('.explorer output').value.startsWith('50 ')")

    parameters = page.get_by_role("button", name="parameters")
    parameters.click()
    assert rows.first.locator("td").nth(4).inner_text() == "100"  # the index of the smallest
    page.get_by_role("button", name="Show 100 more").click()
    assert rows.count() == 50
    page.get_by_label("Filter").fill("107")
    assert "diverged" in rows.first.inner_text()

    point = page.locator(".explorer .plot svg .mark-symbol path").first
    point.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    page.get_by_label("Across").select_option("parameters")
    page.wait_for_function(
        "document.querySelector('.explorer .plot').textContent.includes('parameters')"
    )
