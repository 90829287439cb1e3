"""The report of a continual run: accuracy by step and method, differences, memories, settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.errors import UserError
from condense.progress import duration
from condense.reading import read_json
from condense.report import charts
from condense.report.blocks import (
    Block,
    Chart,
    Command,
    Details,
    Facts,
    Report,
    Section,
    Table,
    Text,
)
from condense.report.tables import percent
from condense.runs.commands import command
from condense.settings import read
from condense.words import counted
from continual.results import SUMMARIES

_MEANING = (
    "Accuracy on the test images of the classes seen so far, with its 95 % interval. Average: over "
    "the steps. Forgetting: best minus last accuracy on the classes of a step, averaged over all "
    "steps but the last. BWT: last accuracy minus that right after the step. FWT: accuracy just "
    "before a step on its classes, minus that of the untrained network."
)
_COST = (
    "The memory after the last step, as it is stored, and how long it took to make: for each class "
    "order, or once for all. Where that is empty, nothing was made or nobody knows."
)
_PAIRED = "What an order makes easier for both methods is not in these differences."


def report_of(folder: Path) -> Report:
    """What is told of the run in `folder`, by its `summary.json`.

    Raises `UserError` if nothing is measured yet, and for a damaged file.

    >>> report_of(Path("nowhere"))
    Traceback (most recent call last):
    condense.errors.UserError: nowhere has no results yet (no summary.json): go on with ...
    """
    path = folder / "summary.json"
    if not path.exists():
        raise UserError(
            f"{folder} has no results yet (no summary.json): "
            f"go on with `condensekit continual --resume {folder}`"
        )
    document = read_json(path)
    try:
        return _report(document, folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UserError(
            f"{path} is not of this version of condensekit: "
            f"write it again with `condensekit continual --resume {folder}`"
        ) from None


def _report(document: Mapping[str, Any], folder: Path) -> Report:
    plan, methods = document["plan"], document["methods"]
    dataset = document["source"]["name"]
    training = "from scratch" if plan["mode"] == "scratch" else plan["strategy"]
    steps = counted(plan["steps"], "step")
    took = f"{duration(document['seconds'])}, one after the other"
    notes = [Text(note) for note in document["notes"]]
    if left := document["left"]:
        notes.insert(0, Text(f"Still to be tested: {counted(left, 'network')}."))
    last = {f"{method}: final accuracy": _text(of["final"]) for method, of in methods.items()}
    return Report(
        title=f"{dataset} in {steps}, {counted(plan['ipc'], 'image')} a class, {training}",
        sections=[
            Section("Accuracy", Text(_MEANING), *_accuracy(methods, document["seen"]), *notes),
            Section("Differences", Text(_PAIRED), *_differences(document["differences"])),
            Section("What a memory costs", Text(_COST), _costs(document["memory"], methods)),
            Section(
                "How it was measured",
                Command(_command(document, folder)),
                Facts({"the trainings took": took, **document["environment"]}),
                Details(
                    "All settings",
                    [Facts({name: document[name] for name in ("source", "fingerprint", "plan")})],
                ),
            ),
        ],
        summary={"run": folder.name, "dataset": dataset, "mode": training} | last,
    )


def _accuracy(methods: Mapping[str, Any], seen: list[int]) -> list[Block]:
    """A line for each method, and the numbers."""
    rows = []
    for method, of in methods.items():
        for classes, one in zip(seen, of["steps"], strict=True):
            if one:
                low, high = one["ci95"] or (None, None)
                rows.append(
                    {
                        "method": method,
                        "classes seen": classes,
                        "accuracy, %": 100 * one["mean"],
                        "low": low and 100 * low,
                        "high": high and 100 * high,
                    }
                )
    cells = [
        [f"step {step + 1}", *(_text(of["steps"][step]) for of in methods.values())]
        for step in range(len(seen))
    ]
    cells += [
        [text, *(_text(of[name]) for of in methods.values())] for name, text in SUMMARIES.items()
    ]
    spec = charts.series(rows, "classes seen", "accuracy, %", "method", seen)
    return [Chart("Accuracy on the classes seen", spec), Table(["", *methods], cells)]


def _differences(differences: Mapping[str, Any]) -> list[Block]:
    """Each method minus each other: a chart, and a table with the orders."""
    points, rows = [], []
    for name, one in differences.items():
        mean = 100 * one["mean"]
        low, high = (100 * end for end in one["ci95"] or (one["mean"], one["mean"]))
        point = {"name": name.replace(" - ", ", minus "), "points": mean, "low": low, "high": high}
        points.append({"source": "95 % interval", **point})
        by_order = ", ".join(f"{100 * value:+.1f}" for (value,) in one["values"])
        rows.append([name, f"{mean:+.1f}", percent(one["ci95"] or (), 1), by_order])
    if not points:
        return [Text("No two methods are complete in any order yet.")]
    headers = ["final accuracy of", "points", "95 % interval", "by order"]
    spec = charts.intervals(points, "points", zero=True)
    return [Chart("Differences of the final accuracy", spec), Table(headers, rows)]


def _costs(sizes: Mapping[str, Any], methods: Mapping[str, Any]) -> Table:
    """Final accuracy against what the memories cost."""
    rows = [
        [name, size["images"], size["bytes"], size["seconds"], _text(methods[name]["final"])]
        for name, size in sizes.items()
    ]
    return Table(["method", "images", "bytes", "seconds to make", "final accuracy, %"], rows)


def _text(one: Mapping[str, Any] | None) -> str:
    """A mean in percent with its interval."""
    if one is None:
        return ""
    among = f" ({percent(one['ci95'], 1)})" if one["ci95"] else ""
    return f"{100 * one['mean']:.1f}{among}"


def _command(document: Mapping[str, Any], folder: Path) -> str:
    """The command that measures the same into a folder that holds no run yet."""
    plan = dict(document["plan"])
    options = {"method": plan.pop("methods")}
    options |= {name.replace("_", "-"): value for name, value in plan.items()}
    source = read(Source, document["source"], "source")
    return command("continual", source, options, folder)
