"""The report of a run folder: the images, what networks reach, the curves, and how it was made.

RUN/report.html     written when a set is made, selected or imported, and after each evaluation
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from condense.data.names import called
from condense.errors import UserError
from condense.progress import duration
from condense.report import charts, papers
from condense.report.blocks import (
    Block,
    Chart,
    Command,
    Details,
    Facts,
    Heat,
    Report,
    Section,
    Table,
    Text,
    scores,
)
from condense.report.frames import pictures
from condense.report.history import History, frames
from condense.report.page import write
from condense.runs.commands import condense_command, select_command
from condense.runs.evaluations import Row, rows
from condense.runs.job import Job, KeptRecord, RunRecord, record_of
from condense.sets.condensed import FILE_NAME, CondensedSet

PAGE = "report.html"

_WHITENED = (
    "The set is whitened (ZCA), and its values may go beyond what a picture can show. They are cut "
    "off here, which makes the colours glaring. Networks are trained on the values as they are."
)


def write_report(folder: Path) -> Path:
    """Write the report of the run in `folder` into it; returns the file.

    Raises what `report_of` raises.

    >>> from tempfile import TemporaryDirectory
    >>> from condense.data.catalogue import Source
    >>> from condense.runs.shelf import select_into
    >>> how = {"method": "random", "ipc": 2, "preprocess": "standard", "seed": 0}
    >>> source = Source(name="digits")
    >>> with TemporaryDirectory() as out:
    ...     _ = select_into(
    ...         Path(out), source.load(), source, **how, device="cpu", storage="uint8"
    ...     )
    ...     write_report(Path(out)).name
    'report.html'
    """
    return write(folder / PAGE, report_of(folder))


def report_of(folder: Path) -> Report:
    """What is told of the set in `folder`, or of the run that is still making it.

    Raises `UserError` if the folder holds no run, or a damaged one.

    >>> report_of(Path("nowhere"))
    Traceback (most recent call last):
    condense.errors.UserError: nowhere holds no run (no run.json)
    """
    record = record_of(folder)
    if record is None:
        raise UserError(f"{folder} holds no run (no run.json)")
    made = isinstance(record, KeptRecord)
    start = None if made else CondensedSet.load(folder / "start.safetensors")
    finished = (folder / FILE_NAME).exists()
    condensed = CondensedSet.load(folder / FILE_NAME) if finished else start
    assert condensed is not None
    evaluations = rows(folder, condensed)
    facts = condensed.provenance
    job = Job.from_json(record.job) if isinstance(record, RunRecord) else None
    what = job.recipe.name if job else facts.get("method", "imported")
    sections = [
        Section("Accuracy", *_accuracy(folder, record, condensed, evaluations)),
        Section("Images", *_images(folder, condensed, start, finished)),
    ]
    if curves := _curves(History.of(folder)):
        sections.append(Section("Losses and time", *curves))
    sections.append(Section("How it was made", *_provenance(folder, record, condensed, finished)))
    return Report(
        title=f"{called(record.source.name)}, {condensed.ipc} per class: {what}",
        sections=sections,
        summary={
            "run": folder.name,
            "dataset": called(record.source.name),
            "images per class": condensed.ipc,
            "recipe": what,
            "seed": facts.get("seed"),
            "steps": facts.get("steps"),
            "seconds": record.progress.get("seconds") if isinstance(record, RunRecord) else None,
        },
        scores={_label(row, evaluations): row.score for row in evaluations},
    )


def _accuracy(
    folder: Path,
    record: RunRecord | KeptRecord,
    condensed: CondensedSet,
    evaluations: Sequence[Row],
) -> list[Block]:
    """What networks reach that are trained on the set, beside published figures."""
    run = f"condensekit evaluate {folder}"
    if not evaluations:
        return [
            Text("No network has been trained on this set yet. This trains some:"),
            Command(run),
        ]
    published = _published(record, condensed)
    protocols = dict.fromkeys(row.protocol_text for row in evaluations)
    trained = "the protocols named" if len(protocols) > 1 else f"protocol {next(iter(protocols))}"
    blocks: list[Block] = [
        Text(
            "Each dot is the mean over networks of one kind that were trained on this set, and "
            "its bar the 95 % interval, which a single network does not have; it says nothing "
            "about a set from another seed. "
            f"Trained by {trained}, tested on {evaluations[0].tested_on}."
        ),
        scores({_label(row, evaluations): row.score for row in evaluations}, published),
    ]
    if published:
        blocks.append(
            Text(
                "Published figures are of the DataDAM paper and of MTT's: a ConvNet, five sets, "
                "with the standard deviation. Their trainings may differ from those here."
            )
        )
    if len({row.network for row in evaluations}) > 1:
        blocks.append(_across(evaluations))
    return blocks


def _across(evaluations: Sequence[Row]) -> Heat:
    """Accuracy by protocol and network, as a map."""
    means = {(row.protocol_text, row.network): 100 * row.score.mean for row in evaluations}
    protocols = list(dict.fromkeys(protocol for protocol, _ in means))
    networks = list(dict.fromkeys(network for _, network in means))
    values = [[means.get((protocol, network)) for network in networks] for protocol in protocols]
    return Heat("Mean accuracy across architectures, %", protocols, networks, values)


def _label(row: Row, among: Sequence[Row]) -> str:
    """The network of a row, with what else tells it from the others."""
    parts = [row.network]
    if len({other.protocol_text for other in among}) > 1:
        parts.append(row.protocol_text)
    if len({other.tested_on for other in among}) > 1:
        parts.append(row.tested_on)
    alike = [other for other in among if replace(other, seed=row.seed, score=row.score) == row]
    if len(alike) > 1:
        parts.append(f"evaluation {alike.index(row) + 1}")
    return ", ".join(parts)


def _published(
    record: RunRecord | KeptRecord, condensed: CondensedSet
) -> dict[str, tuple[float, float]]:
    """What papers print for this dataset and number of images, by method, in percent."""
    source = record.source
    if source.hold_out or source.resolution:
        return {}
    return papers.figures(f"{source.name} IPC {condensed.ipc}")


def _images(
    folder: Path, condensed: CondensedSet, start: CondensedSet | None, finished: bool
) -> list[Block]:
    between = [(f"step {step}", image) for step, image in frames(folder)]
    if not finished:
        return [
            Text("The run is not finished: these are the images it started from."),
            pictures(condensed),
        ]
    if start is not None and (condensed.formation, len(condensed)) != (start.formation, len(start)):
        start = None
    # The last frame is the result, unless something was done to it after the last step.
    last = condensed.provenance.get("steps")
    shown = pictures(condensed, start, [one for one in between if one[0] != f"step {last}"])
    whitened = condensed.preprocess.name == "zca" and "recipe" in condensed.provenance
    return [Text(_WHITENED), shown] if whitened else [shown]


def _curves(history: History) -> list[Block]:
    """The terms of the loss and the time of a step."""
    if not history.steps:
        return []
    losses: list[dict[str, Any]] = [
        {"step": step, "loss": value, "term": name}
        for name, values in history.losses.items()
        for step, value in zip(history.steps, values, strict=True)
    ]
    positive = all(row["loss"] > 0 for row in losses)
    seconds = [
        {"step": step, "seconds a step": value}
        for step, value in zip(history.steps, history.seconds, strict=True)
    ]
    ends = [(name, values[0], values[-1], min(values)) for name, values in history.losses.items()]
    table = Table(("term", "first", "last", "least"), ends)
    term = "term" if len(history.losses) > 1 else None
    return [
        Chart("Loss", charts.line(losses, "step", "loss", term, log=positive), table),
        Chart("Time of a step", charts.line(seconds, "step", "seconds a step", height=140)),
    ]


def _provenance(
    folder: Path, record: RunRecord | KeptRecord, condensed: CondensedSet, finished: bool
) -> list[Block]:
    """The command, the seconds, the machine, and all settings."""
    facts = condensed.provenance
    if isinstance(record, KeptRecord):
        chosen = "method" in facts and "seed" in facts
        selected = [Command(select_command(record.source, condensed, folder))] if chosen else []
        return [*selected, Facts(facts)]
    job = Job.from_json(record.job)
    steps = facts["steps"] if finished else job.recipe.steps
    again = condense_command(job, condensed.shape, folder, steps)
    times = {
        name: duration(record.progress[key])
        for name, key in (("the pool took", "pool_seconds"), ("the steps took", "seconds"))
        if record.progress.get(key, 0) >= 1
    }
    return [
        Text(
            "This command makes the same file again on the same machine with as many threads, "
            "into a folder that holds no run yet:"
        ),
        Command(again),
        Facts({**times, **record.environment}),
        Details("All settings", [Facts(facts)]),
    ]
