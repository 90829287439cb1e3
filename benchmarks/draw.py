"""Draw the pictures of kept results again: `python -m benchmarks.draw nas_cells tables_main_cpu`.

The pages of tables are written again too. Only the pictures that a document shows are in the
repository. All others follow from the numbers in `benchmarks/results/NAME.json`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from benchmarks import breakdown, nas_figures, recipes, results, scale
from benchmarks.tables import accuracy, cost, embedding, render
from benchmarks.tables.entries import EntryResult
from benchmarks.tables.lines import SCALES
from condense.command import guard
from condense.errors import unknown
from condense.reading import read_json
from condense.training.score import Score, Statistic
from continual.report import plot
from nas.agreement import Estimate
from nas.ranking import Ranking
from nas.training import SCORES

Document = dict[str, Any]
"""What a result's JSON holds."""


def _continual(folder: Path, name: str, document: Document) -> None:
    plan = document["plan"]
    training = "from scratch" if plan["mode"] == "scratch" else plan["strategy"]
    classes = plan["classes"] or 100
    title = (
        f"cifar100: {classes} classes in {plan['steps']} steps, "
        f"{plan['ipc']} images a class, {training}"
    )
    methods = document["methods"]

    def at(method: str, step: int) -> Statistic:
        return Statistic(tuple(map(tuple, methods[method]["steps"][step]["values"])))

    measured: Any = SimpleNamespace(methods=list(methods), steps=plan["steps"], at=at)
    plot(measured, folder / f"{name}.png", title, classes // plan["steps"])


def ranking_of(document: Document) -> Ranking:
    """The ranking that a study of architectures kept. Its counts of trainings are not kept: 0."""
    rows = sorted(document["architectures"], key=lambda row: row["index"])
    known = document["agreement"]
    columns = {name: np.array([_number(row[name]) for row in rows]) for name in known}
    last = f" {next(iter(SCORES))}"
    proxies = [name.removesuffix(last) for name in known if name.endswith(last)]
    nothing = {proxy: np.zeros(len(rows)) for proxy in proxies}
    return Ranking(
        space=document["space"],
        indices=tuple(row["index"] for row in rows),
        columns=columns,
        diverged=nothing,
        trainings=nothing,
        by=document["ranked_by"],
        truth=np.array([_number(row["truth"]) for row in rows]),
    )


def _nas(folder: Path, name: str, document: Document) -> None:
    passes = {
        proxy: [Estimate(**{key: _number(value) for key, value in one.items()}) for one in rhos]
        for proxy, rhos in document.get("passes", {}).items()
    }
    nas_figures.draw(folder, name, ranking_of(document), passes)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _table(folder: Path, name: str, document: Document) -> None:
    table = accuracy.TABLES[name.split("_")[1]](SCALES[document["scale"]])
    kept = {(one["row"], one["column"]): one for one in document["entries"]}
    known = {}
    for entry in table.entries:
        one = kept[entry.row, entry.column]
        score = one["score"] and Score(tuple(one["score"]["accuracies"]), one["score"]["sets"])
        known[entry] = EntryResult(score, one["missing_sets"], one["failed"])
    render.draw(folder / f"{name}.png", table, known)
    sections = render.sections(table, known)
    results.write_page(folder / f"{name}.html", table.title, sections, document)


def _other_table(kind: Any) -> Callable[[Path, str, Document], Any]:
    """What draws the pictures of a table that is none of accuracies, and writes its page."""

    def draw_it(folder: Path, name: str, document: Document) -> None:
        kind.draw(folder, name, document)
        sections = kind.sections(document)
        results.write_page(folder / f"{name}.html", kind.title(document), sections, document)

    return draw_it


DRAW: dict[str, Callable[[Path, str, Document], Any]] = {
    "breakdown": lambda folder, name, it: breakdown.draw(folder / f"{name}.png", it["records"]),
    "continual_er-ace": _continual,
    "continual_scratch": _continual,
    "nas_": _nas,
    "recipes": lambda folder, name, it: recipes.draw(folder / f"{name}.png", it),
    "scale_": lambda folder, name, it: scale.draw(folder / f"{name}.png", it["curves"]),
    "tables_cost": _other_table(cost),
    "tables_embedding": _other_table(embedding),
    "tables_": _table,
}
"""How the pictures of a result are drawn, by the beginning of its name; the first that fits."""


def draw(folder: Path, name: str) -> None:
    """Draw the pictures of a result into `folder`. Raises `UserError` for no such result."""
    known = [
        path.stem
        for path in sorted(results.FOLDER.glob("*.json"))
        if any(path.stem.startswith(beginning) for beginning in DRAW)
    ]
    if name not in known:
        raise unknown("result with a picture", name, known)
    draw_it = next(one for beginning, one in DRAW.items() if name.startswith(beginning))
    draw_it(folder, name, read_json(results.FOLDER / f"{name}.json"))


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--out", type=Path, default=results.FOLDER, help="Folder for the pictures.")
def main(names: tuple[str, ...], out: Path) -> None:
    """Draw the pictures of the results NAMES again, such as `nas_cells` or `tables_main_cpu`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        draw(out, name)


if __name__ == "__main__":
    guard.run(main)
