"""How far architectures can be ranked by training them on a proxy set, beside what costs nothing.

cells  random cells of NAS-Bench-201, judged by the benchmark's own test accuracies
grid   ConvNets of the 720 grid, judged by a reference that is trained here
size   how the correlation grows with the real images, and where it crosses the parameters'

Each keeps its state in a folder below `--out`: started again it goes on, and a result with
trainings missing says so. The trainings are in one store, `trials.sqlite`: what one study has
trained another does not.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.nas_figures import by_pass, crossings, curve, forest, markdown, pass_lines
from benchmarks.options import StudyCommand
from condense import load_dataset
from condense.data.catalogue import Source
from condense.data.images import Dataset
from nas.plan import change
from nas.ranking import FREE_AVERAGE, YARDSTICK
from nas.report import (
    AGREEMENT_HEADERS,
    DIFFERENCE_HEADERS,
    agreement_rows,
    difference_rows,
    scatter,
)
from nas.search import SearchResult, resume, search, train_reference
from nas.spaces import convnet720 as convnet_space
from nas.spaces import space
from nas.training import Regime


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What every study takes."""
    for option in reversed(
        [
            click.option("--dataset", default="cifar10", show_default=True),
            click.option("--data-dir", type=click.Path()),
            click.option(
                "--resolution", type=int, help="Side of the images in pixels; smaller is cheaper."
            ),
            click.option(
                "--set",
                "sets",
                multiple=True,
                help="A condensed set, or any other proxy; may be given again.",
            ),
            click.option(
                "--ipc",
                default=10,
                show_default=True,
                help="Random real images per class beside it.",
            ),
            click.option(
                "--held-out", default=1000, show_default=True, help="Training images to score by."
            ),
            click.option(
                "--out", default="runs/nas", show_default=True, type=click.Path(path_type=Path)
            ),
            click.option(
                "--name",
                help="Name of the result files; `nas_` and the study unless told otherwise.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure how far a proxy set ranks architectures."""


@main.command(cls=StudyCommand, workers=None)
@options
@click.option(
    "--reference",
    required=True,
    type=click.Path(),
    help="Table of NAS-Bench-201's accuracies.",
)
@click.option("--sample", default=60, show_default=True)
@click.option("--draw", default=0, show_default=True, help="Another number draws other cells.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--cells", default=1, show_default=True, help="Cells a stage; the benchmark has 5.")
@click.option(
    "--width",
    default=16,
    show_default=True,
    help="Channels of the first stage; the benchmark has 16.",
)
def cells(
    sets: tuple[str, ...],
    ipc: int,
    reference: str,
    sample: int,
    draw: int,
    seeds: int,
    epochs: int,
    cells: int,
    width: int,
    **common: Any,
) -> None:
    """Random cells of NAS-Bench-201, ranked by random, condensed and early-stopped trainings."""
    dataset = _dataset(common)
    regime = change(space("nasbench201").REGIME, epochs=epochs, cells=cells, width=width)
    choice = {
        "space_name": "nasbench201",
        "sample": sample,
        "seed": draw,
        "seeds": seeds,
        "regime": regime,
        "reference": reference,
    }
    proxies = [f"random:{ipc}", *sets, f"early-stop:{_steps(dataset, ipc, regime)}"]
    result = _searched("cells", dataset, {**choice, "seed": draw, "proxies": proxies}, common)
    _publish(
        "cells", result, common, {"cells": cells, "width": width, "epochs": epochs, "seeds": seeds}
    )


@main.command(cls=StudyCommand, workers=None)
@options
@click.option("--sample", default=48, show_default=True)
@click.option(
    "--most-mflops",
    default=40.0,
    show_default=True,
    help="Leave out architectures that cost more, in 10^6 multiply-adds.",
)
@click.option(
    "--images",
    default=5000,
    show_default=True,
    help="Real training images of the reference; 0 for all.",
)
@click.option("--reference-epochs", default=8, show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--epochs", default=60, show_default=True)
def grid(
    sets: tuple[str, ...],
    ipc: int,
    sample: int,
    most_mflops: float,
    images: int,
    reference_epochs: int,
    seeds: int,
    epochs: int,
    **common: Any,
) -> None:
    """Stratified ConvNets, ranked by a reference that is trained first, and then by proxies.

    Both by the 720 grid's regime, but in smaller batches (few images would give few steps), and the
    reference with flips and crops in place of DSA, under which nothing fits in so few epochs.
    """
    dataset = _dataset(common)
    indices = _cheap(dataset, sample, most_mflops * 1e6)
    folder = common["out"] / "grid-reference"
    shared: dict[str, Any] = {"space_name": "convnet720", "sample": indices}
    changes = {"epochs": reference_epochs, "batch": 64, "augment": "flip_crop"}
    reference = change(space("convnet720").REFERENCE_REGIME, **changes)
    choice = {**shared, "regime": reference, "images": images or None}
    truth = _run(train_reference, folder, dataset, choice, common)
    if truth.done < truth.total:
        click.echo(
            f"the reference has {truth.done} of {truth.total} trainings: start again to go on"
        )
        return
    regime = change(space("convnet720").REGIME, epochs=epochs, batch=25)
    choice = {**shared, "seeds": seeds, "regime": regime, "reference": folder / "reference.csv"}
    proxies = [f"random:{ipc}", *sets, f"early-stop:{_steps(dataset, ipc, regime)}"]
    result = _searched("grid", dataset, {**choice, "proxies": proxies}, common)
    scale = {
        "reference": f"{images or 'all'} images, {reference_epochs} epochs",
        "epochs": epochs,
        "seeds": seeds,
    }
    _publish("grid", result, common, scale | {"at most": f"{most_mflops:g} M multiply-adds"})


@main.command(cls=StudyCommand, workers=None)
@options
@click.option(
    "--reference",
    required=True,
    type=click.Path(),
    help="Table of NAS-Bench-201's accuracies.",
)
@click.option("--sizes", default="10,50,100", show_default=True, help="Real images per class.")
@click.option("--sample", default=40, show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--cells", default=1, show_default=True)
@click.option("--width", default=16, show_default=True)
def size(
    sets: tuple[str, ...],
    ipc: int,
    reference: str,
    sizes: str,
    sample: int,
    seeds: int,
    epochs: int,
    cells: int,
    width: int,
    **common: Any,
) -> None:
    """The correlation against the number of real images; beside it sets and parameters."""
    dataset = _dataset(common)
    regime = change(space("nasbench201").REGIME, epochs=epochs, cells=cells, width=width)
    counts = [int(count) for count in sizes.split(",")]
    choice = {
        "space_name": "nasbench201",
        "sample": sample,
        "seeds": seeds,
        "regime": regime,
        "reference": reference,
    }
    result = _searched(
        "size",
        dataset,
        {**choice, "proxies": [*(f"random:{count}" for count in counts), *sets]},
        common,
    )
    ranking = result.ranking
    if ranking is None or not ranking.agreements:
        _publish("size", result, common, {})
        return
    passes = by_pass(result.folder, ranking)
    more = [*crossings(ranking, counts), "", *pass_lines(passes)]
    _publish(
        "size",
        result,
        common,
        {"cells": cells, "width": width, "epochs": epochs, "seeds": seeds},
        more,
        {"passes": {proxy: [one.to_json() for one in rhos] for proxy, rhos in passes.items()}},
    )
    curve(results.FOLDER / f"{common['name'] or 'nas_size'}_curve.png", ranking, passes)


def _dataset(common: dict[str, Any]) -> Dataset:
    return load_dataset(common["dataset"], common["data_dir"], resolution=common["resolution"])


def _steps(dataset: Dataset, ipc: int, regime: Regime) -> int:
    """The steps of a training on `ipc` images per class: what early stopping is given as well."""
    return regime.protocol.epochs * math.ceil(ipc * len(dataset.classes) / regime.protocol.batch)


def _searched(
    study: str, dataset: Dataset, choice: dict[str, Any], common: dict[str, Any]
) -> SearchResult:
    """The study's search, begun or gone on with."""
    return _run(search, common["out"] / (common["name"] or study), dataset, choice, common)


def _run(
    begin: Callable[..., SearchResult],
    folder: Path,
    dataset: Dataset,
    choice: dict[str, Any],
    common: dict[str, Any],
) -> SearchResult:
    """What is in the folder, gone on with; or begun with these choices."""
    session = {"workers": common["workers"], "minutes": common["minutes"]}
    if (folder / "search.json").exists():
        return resume(folder, dataset, **session)
    place = {key: common[key] for key in ("data_dir", "resolution")}
    return begin(
        dataset,
        out=folder,
        source=Source(name=common["dataset"], **place),
        store=common["out"] / "trials.sqlite",
        held_out=common["held_out"],
        **choice,
        **session,
    )


def _cheap(dataset: Dataset, count: int, most: float) -> list[int]:
    """The first ConvNets of the stratified order of at most `most` multiply-adds an image."""
    for drawn in range(count, convnet_space.SIZE + 1):
        indices = convnet_space.sample(drawn, stratified=True)
        costs = [
            convnet_space.architecture(index).flops(dataset.shape, len(dataset.classes))
            for index in indices
        ]
        cheap = [index for index, cost in zip(indices, costs, strict=True) if cost <= most]
        if len(cheap) == count:
            return cheap
    raise click.BadParameter(
        f"only {len(cheap)} architectures cost that little", param_hint="--sample"
    )


def _publish(
    study: str,
    result: SearchResult,
    common: dict[str, Any],
    scale: dict[str, Any],
    more: Sequence[str] = (),
    numbers: dict[str, Any] | None = None,
) -> None:
    """Write the study's table, numbers and plots, with `more` lines and `numbers` of its own.

    Nothing is written where there is nothing to correlate yet.
    """
    ranking, name = result.ranking, common["name"] or f"nas_{study}"
    if ranking is None or not ranking.agreements:
        click.echo(f"{result.done} of {result.total} trainings: nothing to correlate yet")
        return
    conditions = ", ".join(
        f"{key} {value}" for key, value in (scale | {"held-out images": common["held_out"]}).items()
    )
    dataset = common["dataset"] + (f" at {common['resolution']} px" if common["resolution"] else "")
    rows = agreement_rows(ranking.agreements)
    lines = [
        f"# {len(ranking)} architectures of {ranking.space} on {dataset}: {conditions}",
        "",
        *(f"- {note}" for note in result.notes),
        *more,
        "",
        "Rank correlation with the true test accuracy, [bootstrap 95 % interval]; tops are by the "
        "truth.",
        "",
        *markdown(AGREEMENT_HEADERS, rows),
        "",
        f"Spearman's rho minus that of `{YARDSTICK}`, on the same resamples: an interval without 0 "
        "is a real difference.",
        "",
        *markdown(DIFFERENCE_HEADERS, difference_rows(ranking.gains)),
        "",
        f"The same between proxies, and of averages with a proxy minus `{FREE_AVERAGE}` without.",
        "",
        *markdown(DIFFERENCE_HEADERS, difference_rows(ranking.contrasts)),
    ]
    document = {
        "conditions": results.conditions(),
        "scale": scale,
        "done": result.done,
        "total": result.total,
    }
    results.write(
        name, {**document, "notes": result.notes, **ranking.to_json(), **(numbers or {})}, lines
    )
    for proxy in ranking.trainings:
        scatter(results.FOLDER / f"{name}_{proxy.replace(':', '-')}.png", ranking, proxy)
    forest(results.FOLDER / f"{name}.png", ranking)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
