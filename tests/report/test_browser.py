"""Reports in a real browser: they fit, they can be read by all, and what moves in them works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from benchmarks import draw
from condense.report.page import write
from nas.incumbents import Exploration, Incumbent
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


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a search within a budget: two strategies and what is free."""
    ends = {"random": [0.2, 0.1, 0.1], "evolution": [0.2, 0.05, 0.0], "free": [0.08]}
    found = [
        Incumbent(name, 0 if name == "free" else 5 * (at + 1), round(1e4 * regret), regret)
        for name, regrets in ends.items()
        for at, regret in enumerate(regrets)
    ]
    made = {"command": "condensekit nas search --space nasbench201", "environment": {"torch": "2"}}
    made |= {"trainings": 30, "seconds": 100.0, "settings": {"dataset": "digits"}}
    folder = tmp_path_factory.mktemp("explored")
    Exploration(folder, "nasbench201", 15, found, ["halving"], best=0.9, made=made).save()
    return folder / "report.html"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a table of accuracies, from its kept numbers."""
    folder = tmp_path_factory.mktemp("table")
    draw.draw(folder, "tables_order_cpu")
    return folder / "tables_order_cpu.html"


@pytest.fixture(scope="module")
def pages(runs: Path, search: Path, stream: Path, explored: Path, table: Path) -> dict[str, Path]:
    """A page of every kind by name."""
    found = {"dm": runs / "dm" / "report.html", "both": runs / "both.html", "table": table}
    return found | {"nas": search, "continual": stream, "explored": explored}


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1280, "light"), (1280, "dark")])
def test_every_kind_of_report_fits_and_can_be_read_by_all(
    pages: dict[str, Path], shown: Show, width: int, theme: str, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
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


PAPER = 688
"""The width between the margins of A4, in CSS pixels."""
WIDER = """width => [...document.querySelectorAll("main *")].filter((part) => {
    const box = part.getBoundingClientRect(), style = getComputedStyle(part);
    return box.width && style.clipPath === "none" && (box.right > width + 1
        || (style.overflowX !== "visible" && part.scrollWidth > part.clientWidth + 1));
}).map((part) => part.outerHTML.slice(0, 200))"""
"""The parts of a page that go beyond its width, or show less of what they hold."""
DARK = """() => [...document.querySelectorAll("html, body, main, main *")].filter((part) => {
    const color = getComputedStyle(part).backgroundColor;
    const most = color.startsWith("color") ? 1 : 255;
    const [red, green, blue, alpha] = color.match(/[\\d.]+/g);
    return (alpha ?? 1) > 0 && Math.max(red, green, blue) < most / 2;
}).map((part) => part.outerHTML.slice(0, 200))"""


def test_every_kind_of_report_can_be_printed(pages: dict[str, Path], shown: Show) -> None:
    for name, file in pages.items():
        page = shown(file, 1280, "dark")
        screen = page.evaluate(DARK)
        page.emulate_media(media="print", color_scheme="dark")
        page.set_viewport_size({"width": PAPER, "height": 900})
        assert page.evaluate(WIDER, PAPER) == [], name
        assert screen, name
        assert page.evaluate(DARK) == [], name
        assert not any(one.is_visible() for one in page.locator("input, select, .more").all())


def test_a_search_within_a_budget_tells_its_incumbents(explored: Path, shown: Show) -> None:
    page = shown(explored)
    rows = page.locator("table.sortable").last.locator("tbody tr")
    assert rows.count() == 7
    assert rows.locator("svg.cell").count() == 7
    page.get_by_role("button", name="regret, points").last.click()
    assert rows.first.locator("td").all_inner_texts()[:3] == ["evolution", "15", "0.00"]
    page.locator(".role-mark.mark-symbol path").last.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "nor_conv" in tooltip.inner_text()
    assert "halving is not at its end" in page.locator("main").inner_text()


def test_a_table_of_accuracies_has_the_papers_figures_beside(table: Path, shown: Show) -> None:
    page = shown(table)
    row = page.locator("tbody tr").filter(has_text="datadam, scale 100")
    mean, among, sets, paper = row.locator("td").all_inner_texts()[1:]
    assert (len(among.split(" to ")), sets, paper) == (2, "8 x 1", "54.2 \u00b1 0.8")
    page.locator(".role-mark.mark-symbol path").last.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "published" in tooltip.inner_text()
    page.get_by_role("button", name="test accuracy").click()
    means = [float(cell) for cell in page.locator("tbody td:nth-child(2)").all_inner_texts()[:7]]
    assert means == sorted(means)
    assert float(mean) in means


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
