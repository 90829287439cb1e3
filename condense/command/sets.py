"""`condensekit select`, `import`, `export`, `sets` and `show`: sets that are not made here."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import click

from condense.command.shared import Data, Device, Output, Printed, score_text, show_facts, show_set
from condense.options import PATH, Command, Heading, Part
from condense.words import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which real images are selected, and how they are kept.

    >>> Selection().method
    'random'
    """

    method: str = "random"
    """`random`, `herding`, `kcenter` or `forgetting`."""
    ipc: int = 10
    """Images per class."""
    seed: int = 0
    """Every random number follows from it."""
    preprocess: str = "standard"
    """`standard` or `zca`."""
    storage: str = "uint8"
    """`float32`, `float16` or `uint8` (lossless for real images)."""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "selection": Part(
            kind=Selection,
            heading=Heading.HOW_MUCH,
            elsewhere={"method": Heading.WHAT, "storage": Heading.OUTPUT},
        ),
        "machine": Part(kind=Device, heading=Heading.WHERE),
        "output": Part(kind=Output, heading=Heading.OUTPUT),
    },
)
def select(data: Data, selection: Selection, machine: Device, output: Output) -> None:
    """Select real images as a set: the baselines every condensed set has to beat."""
    from condense.runs import shelf

    source = data.source()
    real, how = source.load(download=data.download), dataclasses.asdict(selection)
    shelf.select_into(output.out, real, source, device=machine.device, **how)
    show_set(output.out, output.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """What the file of another tool does not say of its set.

    >>> Foreign(preprocess="zca").experiment
    0
    """

    preprocess: str | None = None
    """The transform its images are in: `standard`, `zca`, or `ddranking` for files of DD-Ranking,
    which standardises as for CIFAR-10. Needed, unless condensekit wrote the file."""
    experiment: int = 0
    """Which of the sets in a published .pt file."""
    storage: str = "float32"
    """`float32`, `float16` or `uint8`."""


@click.command(
    "import",
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "foreign": Part(kind=Foreign, heading=Heading.WHAT, elsewhere={"storage": Heading.OUTPUT}),
        "output": Part(kind=Output, heading=Heading.OUTPUT),
    },
)
@click.argument("path", type=PATH)
def import_command(path: Path, data: Data, foreign: Foreign, output: Output) -> None:
    """Read a set published by others: a .pt, .npz or .safetensors file, or a folder.

    A folder has pictures by class, Parquet files of Hugging Face, or images and labels as .pt
    files. What `condense` or `export` wrote is kept as it is; `condensekit evaluate` also takes it
    without an import.
    """
    from condense.runs import shelf

    source = data.source()
    real = source.load(download=data.download)
    shelf.import_into(output.out, path, real, source, **dataclasses.asdict(foreign))
    show_set(output.out, output.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Where a set is written, and in which format.

    >>> Export(out=Path("set.npz"), format="npz").format
    'npz'
    """

    format: str = "folder"
    """`folder` (PNG by class, as of ImageFolder), `hf` (Hugging Face: Parquet and a dataset card),
    `ddranking`, `npz`, `pt` or `safetensors`."""
    out: Path
    """File or folder to write. A card that describes the set is written into the folder, as
    README.md, or beside the file."""
    force: bool = False
    """Replace a file that is there; a folder with content, a device or a link never is."""


@click.command("export", cls=Command, parts={"export": Part(kind=Export, heading=Heading.OUTPUT)})
@click.argument("path", type=PATH)
def export_command(path: Path, export: Export) -> None:
    """Write a set in a format other tools read, with a card that says what it is."""
    from condense.runs.exports import export_run

    export_run(path, export.out, export.format, force=export.force)
    click.echo(export.out)


@click.command(cls=Command, parts={"output": Part(kind=Printed, heading=Heading.OUTPUT)})
def sets(output: Printed) -> None:
    """List the condensed sets that come with the package.

    Their names stand wherever a command takes a set: `condensekit show cifar10-ipc1-best`.
    """
    from condense.sets.published import cards
    from condense.settings import plain
    from condense.training.score import Score

    found = {name: (card, Score(card.accuracies)) for name, card in cards().items()}
    if output.json:
        documents = {name: plain(card) | score.to_json() for name, (card, score) in found.items()}
        show_facts(documents, as_json=True)
        return
    for name, (card, score) in found.items():
        networks = counted(len(card.accuracies), "network")
        by = f"{networks} `{card.network}` by protocol {card.protocol}"
        click.echo(f"{name:<28} {score_text(score)}  {by}")
    click.echo(
        "Figures by different protocols cannot be compared; `evaluate` takes one by --protocol."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Look(Printed):
    """How a set is looked at.

    >>> Look(grid=Path("grid.png")).json
    False
    """

    grid: Path | None = None
    """Also draw the images as a PNG here."""
    force: bool = False
    """Replace the file `--grid` if it is there."""


@click.command(cls=Command, parts={"look": Part(kind=Look, heading=Heading.OUTPUT)})
@click.argument("path", type=PATH)
def show(path: Path, look: Look) -> None:
    """Say what a condensed set holds, where it came from, and how accurate it made networks.

    The last is what `condensekit evaluate` has measured so far. PATH is a run folder, a set file,
    an export, or the name of a published set (see `condensekit sets`).
    """
    from condense.report.pictures import grid as draw
    from condense.runs.evaluations import rows
    from condense.sets.exchange import read_set
    from condense.writing import check_new

    condensed = read_set(path)
    if look.grid:
        check_new(look.grid, force=look.force)
        draw(condensed, look.grid)
    facts = {
        "images": len(condensed),
        "shape": condensed.shape,
        "classes": condensed.classes,
        "ipc": condensed.ipc,
        "formation": condensed.formation,
        "labels": "soft" if condensed.soft else "hard",
        "preprocess": condensed.preprocess.name,
        "fingerprint": condensed.fingerprint,
        "bytes": {name: condensed.nbytes(name) for name in ("float32", "float16", "uint8")},
        "provenance": condensed.provenance,
    }
    evaluations = rows(path, condensed)
    if look.json:
        show_facts(facts | {"evaluations": [row.to_json() for row in evaluations]}, as_json=True)
        return
    show_facts(facts, as_json=False)
    for row in evaluations:
        how = f"by {row.protocol_text}, on {row.tested_on}"
        count = counted(len(row.score.accuracies), "network")
        click.echo(f"{row.network:<40} {score_text(row.score)}  {count} {how}")
