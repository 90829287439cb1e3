"""The `nas` command and what is below it: parse, call, print; no logic."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from condense.command.shared import Data, Printed, pairs, show_facts
from condense.errors import UserError
from condense.options import PATH, Command, Group, Heading, Part, SettingOption

if TYPE_CHECKING:
    from condense.study.workers import Workers
    from nas.regime import Regime
    from nas.search import SearchResult

_BEST = 10
"""Architectures printed; the files have all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The space that architectures are from.

    >>> Space(space="convnet720").name()
    'convnet720'
    """

    space: str | None = None
    """`nasbench201` (15,625 cells) or `convnet720` (the 720 ConvNets)."""

    def name(self) -> str:
        """Its name, once it is known to be one; a `UserError` where it is missing or unknown."""
        from nas.spaces import SPACES, space

        if self.space is None:
            raise UserError(f"--space is missing: {' or '.join(sorted(SPACES))}")
        space(self.space)
        return self.space


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainings(Space):
    """Which architectures are trained, how often, and how.

    >>> Trainings(space="nasbench201", set=("lr=0.1",)).seeds
    3
    """

    sample: int | None = None
    """Architectures; 0 for all.  [default: 100 of nasbench201, 144 of convnet720]"""
    seeds: int = 3
    """Trainings of each architecture on each proxy; scores are means."""
    seed: int = 0
    """Every random number follows from it."""
    held_out: int = 5000
    """Training images set apart to score by."""
    epochs: int | None = None
    """Passes over the images; the space's unless given (docs/nas.md)."""
    set: tuple[str, ...] = ()
    """Any other setting of a training as KEY=VALUE: lr, batch, augment, statistics, cells, width,
    ...; may be repeated."""

    def regime(self, usual: str) -> "Regime":
        """How they are trained: as the space's `usual` regime says, changed by what was given."""
        from nas.plan import change
        from nas.spaces import space

        changes = dict[str, Any](pairs(self.set))
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        return change(getattr(space(self.name()), usual), **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What architectures are trained on, and what ranks them.

    >>> Judged().proxy
    ('random',)
    """

    proxy: tuple[str, ...] = ("random",)
    """What to train on: a condensed set's path, random[:IPC], early-stop[:STEPS] or whole[:IMAGES];
    may be repeated. Without a number: as large as the first condensed set, else 50 images per
    class."""
    by: str | None = None
    """Column that ranks, such as 'random summed_loss'.  [default: the first proxy's;
    docs/nas.md]"""
    reference: Path | None = None
    """Table of true accuracies to check the ranking by.  [default: SPACE.csv.gz in --data-dir, if
    it is there]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """How many real images make the truth.

    >>> Truth().images is None
    True
    """

    images: int | None = None
    """Real training images, stratified.  [default: all that are not held out]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Where trainings are kept, and how long this session lasts.

    >>> Session(minutes=30).json
    False
    """

    minutes: float | None = None
    """Stop after that long; what is finished is kept, `--resume` goes on."""
    out: Path | None = None
    """Folder of the trainings, made here.  [default: runs/nas-SPACE or runs/reference-SPACE]"""
    store: Path | None = None
    """SQLite file of trainings to share with other searches."""
    resume: Path | None = None
    """Go on with the search, or the reference, in this folder."""
    json: bool = False
    """Print one JSON document on stdout, for machines."""


_DATA = Part(kind=Data, heading=Heading.WHAT, leave=("hold_out",), defaults={"dataset": "cifar10"})
_TRAINED = {
    "space": Heading.WHAT,
    "held_out": Heading.JUDGED,
    "epochs": Heading.TRAINED,
    "set": Heading.TRAINED,
}
_WORKERS = Part(kind="condense.study.workers:Workers", heading=Heading.WHERE)
_RESUMABLE = {"resume", "workers", "threads", "device", "cluster", "minutes", "json"}
"""What may change from one session of a search to the next."""


@click.group(
    cls=Group,
    invoke_without_command=True,
    parts={
        "data": _DATA,
        "trainings": Part(kind=Trainings, heading=Heading.HOW_MUCH, elsewhere=_TRAINED),
        "judged": Part(kind=Judged, heading=Heading.JUDGED, elsewhere={"proxy": Heading.WHAT}),
        "workers": _WORKERS,
        "session": Part(kind=Session, heading=Heading.OUTPUT, elsewhere={"minutes": Heading.WHERE}),
    },
)
@click.pass_context
def nas(
    context: click.Context,
    data: Data,
    trainings: Trainings,
    judged: Judged,
    workers: "Workers",
    session: Session,
) -> None:
    """Rank architectures by training them on a proxy set, and say how far to trust the ranking.

    \b
    condensekit nas --space nasbench201 --data-dir DIR
    condensekit nas --space convnet720 --proxy runs/c10-ipc50 --proxy random --proxy early-stop \\
        --reference FILE --out runs/nas
    condensekit nas --resume runs/nas
    condensekit nas show runs/nas
    condensekit nas arch 6111 --space nasbench201

    Every ranking stands beside what costs nothing (parameters, FLOPs, synflow, ...): a proxy that
    does not beat them is of no use. A search can be stopped or killed at any time; every finished
    training is kept. The folder then holds ranking.csv and ranking.json, report.html, and a scatter
    plot of each proxy against the truth.
    """
    from nas import search

    given = _given(context)
    if context.invoked_subcommand:
        if given:
            flags = ", ".join(sorted(given.values()))
            raise UserError(f"{flags} stands before `{context.invoked_subcommand}`: write it after")
    elif session.resume:
        if fixed := sorted(flag for name, flag in given.items() if name not in _RESUMABLE):
            raise UserError(
                f"{', '.join(fixed)} cannot change in a search that is under way: "
                "leave it out or start another"
            )
        further: dict[str, Any] = {
            "workers": workers,
            "minutes": session.minutes,
            "quiet": session.json,
        }
        _tell(search.resume(session.resume, **further), session.json)
    else:
        choices = dataclasses.asdict(judged) | {"regime": trainings.regime("REGIME")}
        choices["proxies"] = choices.pop("proxy")
        out = session.out or f"runs/nas-{trainings.space}"
        _work(search.search, data, trainings, workers, session, out=out, **choices)


def _given(context: click.Context) -> dict[str, str]:
    """The options that the user wrote on the command line: flags by name."""
    return {
        str(param.name): param.opts[0]
        for param in context.command.get_params(context)
        if isinstance(param, SettingOption)
        and context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    }


def _work(
    make: Callable[..., "SearchResult"],
    data: Data,
    trainings: Trainings,
    workers: "Workers",
    session: Session,
    **choices: Any,
) -> None:
    """Call the function `make` with what a search and a reference run have in common; tell all."""
    source = data.source()
    found = make(
        source.load(download=data.download),
        source=source,
        space_name=trainings.name(),
        sample=trainings.sample,
        seeds=trainings.seeds,
        seed=trainings.seed,
        held_out=trainings.held_out,
        store=session.store,
        workers=workers,
        minutes=session.minutes,
        quiet=session.json,
        **choices,
    )
    _tell(found, session.json)


@nas.command(
    cls=Command,
    parts={
        "data": _DATA,
        "trainings": Part(
            kind=Trainings, heading=Heading.HOW_MUCH, elsewhere=_TRAINED, defaults={"seeds": 1}
        ),
        "truth": Part(kind=Truth, heading=Heading.HOW_MUCH),
        "workers": _WORKERS,
        "session": Part(
            kind=Session,
            heading=Heading.OUTPUT,
            elsewhere={"minutes": Heading.WHERE},
            leave=("resume",),
        ),
    },
)
def reference(
    data: Data, trainings: Trainings, truth: Truth, workers: "Workers", session: Session
) -> None:
    """Train architectures on real images and test them: the truth that searches are judged by.

    \b
    condensekit nas reference --space convnet720 --epochs 20 --data-dir DIR --out runs/truth
    condensekit nas --resume runs/truth
    condensekit nas --space convnet720 --reference runs/truth/reference.csv --data-dir DIR

    A search needs the truth of every architecture it ranks: give both the same --sample and --seed.
    """
    from nas import search

    choices = {"images": truth.images, "regime": trainings.regime("REFERENCE_REGIME")}
    out = session.out or f"runs/reference-{trainings.space}"
    _work(search.train_reference, data, trainings, workers, session, out=out, **choices)


@nas.command(cls=Command, parts={"output": Part(kind=Printed, heading=Heading.OUTPUT)})
@click.argument("folder", type=PATH)
def show(folder: Path, output: Printed) -> None:
    """Say how far a search is and what it has found so far; it may be running."""
    from nas.search import show as look

    _tell(look(folder), output.json)


@nas.command(
    cls=Command,
    parts={
        "space": Part(kind=Space, heading=Heading.WHAT),
        "output": Part(kind=Printed, heading=Heading.OUTPUT),
    },
)
@click.argument("key")
def arch(key: str, space: Space, output: Printed) -> None:
    """Describe an architecture by its index or name, for images of 32 px and 10 classes.

    FLOPs are multiply-adds; `isomorph` is the smallest index of a cell that computes the same
    function.
    """
    from nas.search import describe

    show_facts(describe(space.name(), key), output.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """Where the table of NAS-Bench-201 goes, and whether the file it is made of may be loaded.

    >>> Conversion().trust_pickle
    False
    """

    trust_pickle: bool = False
    """Load the file, a pickle: it can run any code. Only if you trust its source."""
    out: Path = Path("nasbench201.csv.gz")
    """Table to write."""


@nas.command(cls=Command, parts={"conversion": Part(kind=Conversion, heading=Heading.OUTPUT)})
@click.argument("official", type=PATH)
def convert(official: Path, conversion: Conversion) -> None:
    """Turn NAS-Bench-201's official .pth file, once, into the compact table that searches read.

    \b
    condensekit nas convert NAS-Bench-201-v1_1-096897.pth --trust-pickle \\
        --out DIR/nasbench201.csv.gz
    """
    from nas.reference import convert as turn

    turn(official, conversion.out, trust_pickle=conversion.trust_pickle)
    click.echo(conversion.out)


def _tell(found: "SearchResult", as_json: bool) -> None:
    """Print what was found: how far each score can be trusted, the best, what one should know, the
    files."""
    from condense.report.tables import columns as aligned
    from nas.report import AGREEMENT_HEADERS, agreement_rows

    names = ("ranking.csv", "ranking.json", "report.html", "reference.csv")
    files = [str(found.folder / name) for name in names if (found.folder / name).exists()]
    ranking = found.ranking
    if as_json:
        told = {"folder": str(found.folder), "done": found.done, "total": found.total}
        told |= {"notes": found.notes, "files": files}
        click.echo(json.dumps(told | (ranking.to_json() if ranking is not None else {}), indent=2))
        return
    click.echo(f"{found.done} of {found.total} trainings done")
    if ranking is not None and ranking.agreements:
        click.echo(
            f"\nagreement with the true test accuracy of {len(ranking)} architectures, "
            "95 % intervals"
        )
        single = {name: found for name, found in ranking.agreements.items() if " + " not in name}
        click.echo("\n".join(aligned(AGREEMENT_HEADERS, agreement_rows(single))))
    if ranking is not None and len(ranking):
        click.echo(f"\nthe best by {ranking.by} (losses are negated)")
        truth = ["truth"] if ranking.truth is not None else []
        columns = ["rank", "index", ranking.by, *truth, "arch"]
        rows = [[_number(row[column]) for column in columns] for row in ranking.rows()[:_BEST]]
        click.echo("\n".join(aligned(columns, rows)))
    click.echo()
    for line in (*(f"note: {note}" for note in found.notes), *files):
        click.echo(line)


def _number(value: Any) -> str:
    """A cell of a ranking; a score that is missing is that of diverged trainings."""
    if value is None:
        return "diverged"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
