"""The `nas` command and what is below it: parse, call, print; no logic."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from condense.command.shared import Data, Printed, show_facts
from condense.errors import UserError
from condense.options import PATH, Command, Group, Heading, Part, check_resumed, given
from condense.words import counted
from nas.options import Budget, Conversion, Judged, Session, Space, Trainings, Truth

if TYPE_CHECKING:
    from condense.data.catalogue import Source
    from condense.data.images import Dataset
    from condense.study.workers import Workers
    from nas.incumbents import Exploration
    from nas.search import SearchResult

_BEST = 10
"""Architectures printed; the files have all."""


_DATA = Part(kind=Data, heading=Heading.WHAT, leave=("hold_out",), defaults={"dataset": "cifar10"})
_TRAINED = {
    "space": Heading.WHAT,
    "held_out": Heading.JUDGED,
    "epochs": Heading.TRAINED,
    "set": Heading.TRAINED,
}
# One thread each: the networks are small, and more threads would take the cores of other work.
_WORKERS = Part(
    kind="condense.study.workers:Workers", heading=Heading.WHERE, defaults={"threads": 1}
)
_SESSION = Part(
    kind=Session,
    heading=Heading.OUTPUT,
    elsewhere={"minutes": Heading.WHERE},
    leave=("resume",),
)
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
    training is kept. The folder then holds ranking.csv and ranking.json, and report.html, which
    shows every score against the truth.
    """
    from nas import search

    if context.invoked_subcommand:
        if written := given(context):
            flags = ", ".join(sorted(written.values()))
            raise UserError(f"{flags} stands before `{context.invoked_subcommand}`: write it after")
    elif session.resume:
        check_resumed(context, "search", _RESUMABLE)
        further: dict[str, Any] = {"workers": workers, "minutes": session.minutes}
        _tell(search.resume(session.resume, **further), session.json)
    else:
        choices = dataclasses.asdict(judged) | {"regime": trainings.regime("REGIME")}
        choices["proxies"] = choices.pop("proxy")
        choices["out"] = session.out or f"runs/nas-{trainings.space}"
        source, dataset = _shrunk(data, trainings.name(), judged.proxy)
        choices |= {"source": source, "only": trainings.only()}
        _work(search.search, dataset, trainings, workers, session, **choices)


def _shrunk(data: Data, space_name: str, proxies: tuple[str, ...]) -> tuple["Source", "Dataset"]:
    """The dataset as the regime of the space was measured, unless the user gave the resolution.

    Beside condensed sets it has their size.
    """
    from condense.sets.condensed import CondensedSet
    from condense.sets.published import is_there
    from nas.proxies import parse
    from nas.spaces import space

    source = data.source()
    dataset = source.load(download=data.download)
    side = getattr(space(space_name), "RESOLUTION", None)
    sets = [one.path for one in parse(proxies) if one.path and is_there(one.path)]
    if sets:
        side = CondensedSet.load(sets[0]).shape[1]
    if data.resolution or side is None or min(dataset.shape[1:]) <= side:
        return source, dataset
    source = dataclasses.replace(source, resolution=side)
    return source, source.load()


def _work(
    make: Callable[..., "SearchResult"],
    dataset: "Dataset",
    trainings: Trainings,
    workers: "Workers",
    session: Session,
    **choices: Any,
) -> None:
    """Call the function `make` with what a search and a reference run have in common; tell all."""
    found = make(
        dataset,
        space_name=trainings.name(),
        sample=trainings.chosen(),
        seeds=trainings.seeds,
        seed=trainings.seed,
        held_out=trainings.held_out,
        store=session.store,
        workers=workers,
        minutes=session.minutes,
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
        "session": _SESSION,
    },
)
def reference(
    data: Data,
    trainings: Trainings,
    truth: Truth,
    workers: "Workers",
    session: Session,
) -> None:
    """Train architectures on real images and test them: the truth that searches are judged by.

    \b
    condensekit nas reference --space convnet720 --epochs 20 --data-dir DIR --out runs/truth
    condensekit nas --resume runs/truth
    condensekit nas --space convnet720 --reference runs/truth/reference.csv --data-dir DIR

    A search needs the truth of every architecture it ranks: give both the same --sample and --seed.
    """
    from nas import search

    choices: dict[str, Any] = {
        "images": truth.images,
        "regime": trainings.regime("REFERENCE_REGIME"),
    }
    choices["out"] = session.out or f"runs/reference-{trainings.space}"
    choices |= {"source": data.source(), "only": trainings.only()}
    _work(search.train_reference, data.load(), trainings, workers, session, **choices)


@nas.command(
    cls=Command,
    name="search",
    parts={
        "data": _DATA,
        "trainings": Part(
            kind=Trainings,
            heading=Heading.HOW_MUCH,
            elsewhere=_TRAINED,
            leave=("sample", "indices", "seeds"),
        ),
        "budget": Part(kind=Budget, heading=Heading.HOW_MUCH),
        "judged": Part(kind=Judged, heading=Heading.JUDGED, elsewhere={"proxy": Heading.WHAT}),
        "workers": _WORKERS,
        "session": _SESSION,
    },
)
def within_budget(
    data: Data,
    trainings: Trainings,
    budget: Budget,
    judged: Judged,
    workers: "Workers",
    session: Session,
) -> None:
    """Search a space within a budget of trainings, and say how far from the best each way ends.

    \b
    condensekit nas search --space nasbench201 --budget 50 --data-dir DIR --out runs/search
    condensekit nas search --space convnet720 --depth 1,2 --strategy evolution --strategy free

    Regret is how much better the best architecture of the reference is than the one that a
    strategy holds for the best, after as many trainings. The same command goes on.
    """
    from nas.explore import explore

    source, dataset = _shrunk(data, trainings.name(), judged.proxy)
    choices = dataclasses.asdict(judged)
    choices["proxies"] = choices.pop("proxy")
    found = explore(
        dataset,
        space_name=trainings.name(),
        out=session.out or f"runs/explore-{trainings.space}",
        budget=budget.budget,
        strategies=budget.strategy,
        seed=trainings.seed,
        workers=workers,
        minutes=session.minutes,
        source=source,
        only=trainings.only(),
        held_out=trainings.held_out,
        regime=trainings.regime("REGIME"),
        store=session.store,
        **choices,
    )
    _tell_explored(found, session.json)


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
    from nas.spaces import describe

    show_facts(describe(space.name(), key), output.json)


@nas.command(cls=Command, parts={"conversion": Part(kind=Conversion, heading=Heading.OUTPUT)})
@click.argument("official", type=PATH)
def convert(official: Path, conversion: Conversion) -> None:
    """Turn a benchmark's official results, once, into the compact table that searches read.

    They are the .pth file of NAS-Bench-201, or a folder of NATS-Bench: NATS-tss-v1_0-*-simple (the
    same cells) or NATS-sss-v1_0-*-simple (for --space natssize).

    \b
    condensekit nas convert NAS-Bench-201-v1_1-096897.pth --trust-pickle \\
        --out DIR/nasbench201.csv.gz
    """
    from nas.reference import convert as turn

    turn(official, conversion.out, trust_pickle=conversion.trust_pickle, force=conversion.force)
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
    click.echo(f"{found.done} of {counted(found.total, 'training')} done")
    if ranking is not None and ranking.agreements:
        click.echo(
            f"\nagreement with the true test accuracy of {len(ranking)} architectures, "
            "95 % intervals"
        )
        click.echo("\n".join(aligned(AGREEMENT_HEADERS, agreement_rows(ranking.shown))))
    if ranking is not None and len(ranking):
        click.echo(f"\nthe best by {ranking.by} (losses are negated)")
        truth = ["truth"] if ranking.truth is not None else []
        columns = ["rank", "index", ranking.by, *truth, "arch"]
        rows = [[_number(row[column]) for column in columns] for row in ranking.rows()[:_BEST]]
        click.echo("\n".join(aligned(columns, rows)))
    click.echo()
    for line in (*(f"note: {note}" for note in found.notes), *files):
        click.echo(line)


def _tell_explored(found: "Exploration", as_json: bool) -> None:
    """Print what each strategy ended with, and its regret on the way."""
    from condense.report.tables import columns as aligned

    if as_json:
        click.echo((found.folder / "incumbents.json").read_text().rstrip())
        return
    judged = any(one.regret is not None for one in found.incumbents)
    costs = sorted({max(1, found.budget * part // 4) for part in (1, 2, 3, 4)}) if judged else []
    rows = []
    for row in (row for row in found.rows() if row["cost"] == found.ended[row["strategy"]].cost):
        held = [found.at(row["strategy"], cost) for cost in costs]
        regrets = ["" if one is None or one.regret is None else f"{100 * one.regret:.2f}"
                   for one in held]  # fmt: skip
        rows.append([row["strategy"], *regrets, str(row["index"]), row["arch"]])
    headers = ["strategy", *(f"after {cost}" for cost in costs), "index", "arch"]
    known = (
        "regret in percent by trainings" if judged else "no reference, so that no regret is known"
    )
    click.echo(f"{known}, and the best at the end")
    click.echo("\n".join(aligned(headers, rows)))
    for name in found.unfinished:
        click.echo(f"note: {name} is not at its end: the same command goes on")
    for name in ("incumbents.csv", "incumbents.json", "report.html"):
        click.echo(found.folder / name)


def _number(value: Any) -> str:
    """A cell of a ranking; a score that is missing is that of diverged trainings."""
    if value is None:
        return "diverged"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
