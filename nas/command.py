"""The `nas` command and what is below it: parse, call, print; no logic."""

import json
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from condense.errors import UserError
from condense.options import (
    config_option,
    device_option,
    find_source,
    json_option,
    options,
    pairs,
    place_options,
    seed_option,
    show_facts,
)

if TYPE_CHECKING:
    from condense.study.workers import Workers
    from nas.search import SearchResult

_BEST = 10
"""Architectures printed; the files have all."""
_RESUMABLE = {"resume", "workers", "threads", "device", "cluster", "minutes", "as_json"}
"""What may change from one session of a search to the next."""

_space_option = click.option(
    "--space", "space_name", help="nasbench201 (15,625 cells) or convnet720 (the 720 ConvNets)."
)
_training_options = options(
    click.option("--dataset", default="cifar10", show_default=True, help="Name (see `data --list`), folder:PATH, or .npz file."),
    place_options,
    click.option("--sample", type=int, help="Architectures; 0 for all.  [default: 100 of nasbench201, 144 of convnet720]"),
    seed_option,
    click.option("--epochs", type=int, help="Passes over the images; default: the space's (docs/nas.md)."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Any other setting of a training: lr, batch, augment, statistics, cells, width, ...; may be repeated.",
    ),
    click.option("--held-out", default=5000, show_default=True, help="Training images set apart to score by."),
    click.option("--store", type=click.Path(), help="SQLite file of trainings to share with other searches."),
)  # fmt: skip
_engine_options = options(
    device_option,
    click.option(
        "--workers",
        type=int,
        help="Processes; 0 for none but this.  [default: one a core, eight on a GPU]",
    ),
    click.option(
        "--threads", type=int, help="Threads of each on a CPU.  [default: the cores shared out]"
    ),
    click.option(
        "--cluster",
        help="Train on Ray instead: ray://HOST:PORT, auto (this machine's cluster) or local.",
    ),
    click.option(
        "--minutes",
        type=float,
        help="Stop after that long; what is finished is kept, --resume goes on.",
    ),
)


@click.group(invoke_without_command=True)
@config_option
@_space_option
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    default=["random"],
    help="What to train on: a condensed set's path, random[:IPC], early-stop[:STEPS] or whole[:IMAGES]; may be repeated. "
    "Without a number: as large as the first condensed set, else 50 images per class.  [default: random]",
)
@_training_options
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    help="Trainings of each architecture on each proxy; scores are means.",
)
@click.option(
    "--by",
    help="Column that ranks, such as 'random summed_loss'.  [default: the first proxy's; docs/nas.md]",
)
@click.option(
    "--reference",
    type=click.Path(),
    help="Table of true accuracies to check the ranking by.  [default: SPACE.csv.gz in --data-dir, if it is there]",
)
@_engine_options
@click.option(
    "--out", type=click.Path(), help="Folder of the search, made here.  [default: runs/nas-SPACE]"
)
@click.option(
    "--resume", type=click.Path(), help="Go on with the search, or the reference, in this folder."
)
@json_option
@click.pass_context
def nas(context: click.Context, **flags: Any) -> None:
    """Rank architectures by training them on a proxy set, and say how far that ranking can be trusted.

    \b
    condensekit nas --space nasbench201 --data-dir DIR
    condensekit nas --space convnet720 --proxy runs/c10-ipc50 --proxy random --proxy early-stop --reference FILE --out runs/nas
    condensekit nas --resume runs/nas
    condensekit nas show runs/nas
    condensekit nas arch 6111 --space nasbench201

    Every ranking stands beside what costs nothing (parameters, FLOPs, synflow, ...): a proxy that does not beat them is of
    no use. A search can be stopped or killed at any time; every finished training is kept. The folder then holds
    ranking.csv and ranking.json, report.html, and a scatter plot of each proxy against the truth.
    """
    given = {
        name for name in flags if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if context.invoked_subcommand:
        if given:
            told = ", ".join(sorted(_flag(context, name) for name in given))
            raise UserError(f"{told} stands before `{context.invoked_subcommand}`: write it after")
    elif flags["resume"]:
        if fixed := sorted(_flag(context, name) for name in given - _RESUMABLE):
            raise UserError(
                f"{', '.join(fixed)} cannot change in a search that is under way: leave it out or start another"
            )
        _resume(**{name: value for name, value in flags.items() if name in _RESUMABLE})
    else:
        _search(**{name: value for name, value in flags.items() if name != "resume"})


def _search(
    *,
    space_name: str | None,
    proxies: tuple[str, ...],
    by: str | None,
    reference: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    from nas.search import search

    found = search(
        proxies=proxies,
        by=by,
        reference=reference,
        **_job("REGIME", "nas", space_name=space_name, as_json=as_json, **flags),
    )
    _tell(found, as_json)


def _resume(*, resume: str, minutes: float | None, as_json: bool, **flags: Any) -> None:
    from nas.search import resume as go_on

    _tell(go_on(resume, workers=_workers(**flags), minutes=minutes, quiet=as_json), as_json)


@nas.command()
@config_option
@_space_option
@_training_options
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    help="Trainings of each architecture; the table has their means.",
)
@click.option(
    "--images",
    type=int,
    help="Real training images, stratified.  [default: all that are not held out]",
)
@_engine_options
@click.option(
    "--out",
    type=click.Path(),
    help="Folder of the trainings, made here.  [default: runs/reference-SPACE]",
)
@json_option
def reference(space_name: str | None, images: int | None, as_json: bool, **flags: Any) -> None:
    """Train architectures on real images and test them: the truth that searches are judged by.

    \b
    condensekit nas reference --space convnet720 --epochs 20 --data-dir DIR --out runs/truth
    condensekit nas --resume runs/truth
    condensekit nas --space convnet720 --reference runs/truth/reference.csv --data-dir DIR

    A search needs the truth of every architecture it ranks: give both the same --sample and --seed.
    """
    from nas.search import train_reference

    job = _job("REFERENCE_REGIME", "reference", space_name=space_name, as_json=as_json, **flags)
    _tell(train_reference(images=images, **job), as_json)


@nas.command()
@click.argument("folder", type=click.Path())
@json_option
def show(folder: str, as_json: bool) -> None:
    """Say how far a search is and what it has found so far; it may be running."""
    from nas.search import show as look

    _tell(look(folder), as_json)


@nas.command()
@click.argument("key")
@_space_option
@json_option
def arch(key: str, space_name: str | None, as_json: bool) -> None:
    """Describe an architecture by its index or name, for images of 32 px and 10 classes.

    FLOPs are multiply-adds; `isomorph` is the smallest index of a cell that computes the same function.
    """
    from nas.search import describe

    show_facts(describe(_known(space_name), key), as_json)


@nas.command()
@click.argument("official", type=click.Path())
@click.option(
    "--trust-pickle",
    is_flag=True,
    help="Load the file, a pickle: it can run any code. Only if you trust its source.",
)
@click.option(
    "--out",
    default="nasbench201.csv.gz",
    show_default=True,
    type=click.Path(),
    help="Table to write.",
)
def convert(official: str, trust_pickle: bool, out: str) -> None:
    """Turn NAS-Bench-201's official .pth file, once, into the compact table that searches read.

    \b
    condensekit nas convert NAS-Bench-201-v1_1-096897.pth --trust-pickle --out DIR/nasbench201.csv.gz
    """
    from nas.reference import convert as turn

    turn(official, out, trust_pickle=trust_pickle)
    click.echo(out)


def _flag(context: click.Context, name: str) -> str:
    return next(param.opts[0] for param in context.command.params if param.name == name)


def _known(space_name: str | None) -> str:
    """The name of a space, once it is known to be one."""
    from nas.spaces import SPACES, space

    if space_name is None:
        raise UserError(f"--space is missing: {' or '.join(sorted(SPACES))}")
    space(space_name)
    return space_name


def _job(
    regime_name: str,
    kind: str,
    *,
    space_name: str | None,
    dataset: str,
    data_dir: str | None,
    resolution: int | None,
    download: bool,
    epochs: int | None,
    settings: tuple[str, ...],
    device: str,
    workers: int | None,
    threads: int | None,
    cluster: str | None,
    out: str | None,
    as_json: bool,
    **plain: Any,
) -> dict[str, Any]:
    """What a search and a reference run are told alike; `plain` as it is."""
    from nas.plan import change
    from nas.spaces import space

    name = _known(space_name)
    changes: dict[str, Any] = pairs(settings)
    regime = change(
        getattr(space(name), regime_name),
        **(changes if epochs is None else changes | {"epochs": epochs}),
    )
    where = _workers(device=device, workers=workers, threads=threads, cluster=cluster)
    source = find_source(dataset, data_dir, resolution)
    return {
        "dataset": source.load(download=download),
        "space_name": name,
        "regime": regime,
        "source": source,
        "workers": where,
        "out": out or f"runs/{kind}-{name}",
        "quiet": as_json,
        **plain,
    }


def _workers(**flags: Any) -> "Workers":
    from condense.study.workers import Workers

    return Workers(**flags)


def _tell(found: "SearchResult", as_json: bool) -> None:
    """Print what was found: how far each score can be trusted, the best, what one should know, the files."""
    from nas.report import AGREEMENT_HEADERS, agreement_rows

    names = ("ranking.csv", "ranking.json", "report.html", "reference.csv")
    files = [str(found.folder / name) for name in names if (found.folder / name).exists()]
    ranking = found.ranking
    if as_json:
        told = {
            "folder": str(found.folder),
            "done": found.done,
            "total": found.total,
            "notes": found.notes,
            "files": files,
        }
        click.echo(json.dumps(told | (ranking.to_json() if ranking is not None else {}), indent=2))
        return
    click.echo(f"{found.done} of {found.total} trainings done")
    if ranking is not None and ranking.agreements:
        click.echo(
            f"\nagreement with the true test accuracy of {len(ranking)} architectures, 95 % intervals"
        )
        single = {name: found for name, found in ranking.agreements.items() if " + " not in name}
        _table(AGREEMENT_HEADERS, agreement_rows(single))
    if ranking is not None and len(ranking):
        click.echo(f"\nthe best by {ranking.by} (losses are negated)")
        columns = [
            "rank",
            "index",
            ranking.by,
            *(["truth"] if ranking.truth is not None else []),
            "arch",
        ]
        _table(
            columns,
            [[_number(row[column]) for column in columns] for row in ranking.rows()[:_BEST]],
        )
    click.echo()
    for note in found.notes:
        click.echo(f"note: {note}")
    for file in files:
        click.echo(file)


def _table(headers: "tuple[str, ...] | list[str]", rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _number(value: Any) -> str:
    """A cell of a ranking; a score that is missing is that of diverged trainings."""
    return (
        "diverged" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    )
