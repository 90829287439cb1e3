"""How far architectures can be ranked by training them on a proxy set, beside what costs nothing.

cells  random cells of NAS-Bench-201, judged by the benchmark's own test accuracies
grid   ConvNets of the 720 grid, judged by a reference that is trained here
size   how the correlation grows with the number of real images, and where it crosses the parameter count

Each keeps its state in a folder below `--out`: started again it goes on, and a result with trainings missing says so. The
trainings are in one store, `trials.sqlite`: what one study has trained another does not.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import results
from condense import load_dataset
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.report.figures import save_figure
from condense.study.trials import Trials
from condense.study.workers import Workers
from nas.agreement import Estimate, agreement
from nas.free import BASELINES
from nas.plan import change, load_plan
from nas.ranking import FREE_AVERAGE, YARDSTICK, Ranking
from nas.report import (
    AGREEMENT_HEADERS,
    DIFFERENCE_HEADERS,
    agreement_rows,
    difference_rows,
    interval,
    scatter,
)
from nas.search import SearchResult, resume, search, train_reference
from nas.spaces import convnet720 as convnet_space
from nas.spaces import space
from nas.training import SCORES, Regime, SearchTask


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
                "--minutes", type=float, help="Stop training after that long; start again to go on."
            ),
            click.option(
                "--out", default="runs/nas", show_default=True, type=click.Path(path_type=Path)
            ),
            click.option("--workers", type=int),
            click.option("--device", default="auto", show_default=True),
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


@main.command()
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
    """Random cells of NAS-Bench-201 at a reduced scale, ranked by random, condensed and early-stopped trainings."""
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
    found = _searched("cells", dataset, {**choice, "seed": draw, "proxies": proxies}, common)
    _publish(
        "cells", found, common, {"cells": cells, "width": width, "epochs": epochs, "seeds": seeds}
    )


@main.command()
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
    """Stratified ConvNets: a reference is trained first, then random, condensed and early-stopped proxies rank them.

    Both by the 720 grid's regime, but in smaller batches (few images would give few steps), and the reference with flips
    and crops in place of DSA, under which nothing fits in so few epochs.
    """
    dataset = _dataset(common)
    indices = _cheap(dataset, sample, most_mflops * 1e6)
    folder = common["out"] / "grid-reference"
    shared: dict[str, Any] = {"space_name": "convnet720", "sample": indices}
    truth = _run(
        folder,
        common,
        lambda source, workers: train_reference(
            dataset,
            **shared,
            regime=change(
                space("convnet720").REFERENCE_REGIME,
                epochs=reference_epochs,
                batch=64,
                augment="flip_crop",
            ),
            images=images or None,
            held_out=common["held_out"],
            out=folder,
            source=source,
            workers=workers,
            store=_store(common),
            minutes=common["minutes"],
        ),
        dataset,
    )
    if truth.done < truth.total:
        click.echo(
            f"the reference has {truth.done} of {truth.total} trainings: start again to go on"
        )
        return
    regime = change(space("convnet720").REGIME, epochs=epochs, batch=25)
    choice = {**shared, "seeds": seeds, "regime": regime, "reference": folder / "reference.csv"}
    proxies = [f"random:{ipc}", *sets, f"early-stop:{_steps(dataset, ipc, regime)}"]
    found = _searched("grid", dataset, {**choice, "proxies": proxies}, common)
    scale = {
        "reference": f"{images or 'all'} images, {reference_epochs} epochs",
        "epochs": epochs,
        "seeds": seeds,
    }
    _publish("grid", found, common, scale | {"at most": f"{most_mflops:g} M multiply-adds"})


@main.command()
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
    """The correlation against the number of real images, with the condensed sets and the parameter count beside."""
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
    found = _searched(
        "size",
        dataset,
        {**choice, "proxies": [*(f"random:{count}" for count in counts), *sets]},
        common,
    )
    ranking = found.ranking
    if ranking is None or not ranking.agreements:
        _publish("size", found, common, {})
        return
    passes = _by_pass(found.folder, ranking)
    told = [*_crossings(ranking, counts), "", *_pass_lines(passes)]
    _publish(
        "size",
        found,
        common,
        {"cells": cells, "width": width, "epochs": epochs, "seeds": seeds},
        told,
        {"passes": {proxy: [one.to_json() for one in rhos] for proxy, rhos in passes.items()}},
    )
    curve(results.FOLDER / f"{common['name'] or 'nas_size'}_curve.png", ranking, passes)


def _dataset(common: dict[str, Any]) -> Dataset:
    return load_dataset(common["dataset"], common["data_dir"], resolution=common["resolution"])


def _steps(dataset: Dataset, ipc: int, regime: Regime) -> int:
    """The steps of a training on `ipc` images per class: what early stopping is given as well."""
    return regime.protocol.epochs * math.ceil(ipc * len(dataset.classes) / regime.protocol.batch)


def _store(common: dict[str, Any]) -> Path:
    return common["out"] / "trials.sqlite"


def _searched(
    study: str, dataset: Dataset, choice: dict[str, Any], common: dict[str, Any]
) -> SearchResult:
    """The study's search, begun or gone on with."""
    folder = common["out"] / (common["name"] or study)

    def begin(source: Source, workers: Workers) -> SearchResult:
        options = {
            "held_out": common["held_out"],
            "minutes": common["minutes"],
            "source": source,
            "workers": workers,
        }
        return search(dataset, out=folder, store=_store(common), **choice, **options)

    return _run(folder, common, begin, dataset)


def _run(
    folder: Path,
    common: dict[str, Any],
    begin: Callable[[Source, Workers], SearchResult],
    dataset: Dataset,
) -> SearchResult:
    workers = Workers(workers=common["workers"], device=common["device"])
    if (folder / "search.json").exists():
        return resume(folder, dataset, workers=workers, minutes=common["minutes"])
    source = Source(
        name=common["dataset"], data_dir=common["data_dir"], resolution=common["resolution"]
    )
    return begin(source, workers)


def _cheap(dataset: Dataset, count: int, most: float) -> list[int]:
    """The first `count` ConvNets of the stratified order that cost at most `most` multiply-adds an image."""
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
    found: SearchResult,
    common: dict[str, Any],
    scale: dict[str, Any],
    more: Sequence[str] = (),
    numbers: dict[str, Any] | None = None,
) -> None:
    """Write the study's table, numbers and plots, with `more` lines and `numbers` of its own.

    Nothing is written where there is nothing to correlate yet.
    """
    ranking, name = found.ranking, common["name"] or f"nas_{study}"
    if ranking is None or not ranking.agreements:
        click.echo(f"{found.done} of {found.total} trainings: nothing to correlate yet")
        return
    told = ", ".join(
        f"{key} {value}" for key, value in (scale | {"held-out images": common["held_out"]}).items()
    )
    dataset = common["dataset"] + (f" at {common['resolution']} px" if common["resolution"] else "")
    rows = agreement_rows(ranking.agreements)
    lines = [
        f"# {len(ranking)} architectures of {ranking.space} on {dataset}: {told}",
        "",
        *(f"- {note}" for note in found.notes),
        *more,
        "",
        "Rank correlation with the true test accuracy, [bootstrap 95 % interval]; tops are by the truth.",
        "",
        *_markdown(AGREEMENT_HEADERS, rows),
        "",
        f"Spearman's rho minus that of `{YARDSTICK}`, on the same resamples: an interval without 0 is a real difference.",
        "",
        *_markdown(DIFFERENCE_HEADERS, difference_rows(ranking.gains)),
        "",
        f"The same between proxies, and of averages with a proxy minus `{FREE_AVERAGE}` without.",
        "",
        *_markdown(DIFFERENCE_HEADERS, difference_rows(ranking.contrasts)),
    ]
    document = {
        "conditions": results.conditions(),
        "scale": scale,
        "done": found.done,
        "total": found.total,
    }
    results.write(
        name, {**document, "notes": found.notes, **ranking.to_json(), **(numbers or {})}, lines
    )
    for proxy in ranking.trainings:
        scatter(results.FOLDER / f"{name}_{proxy.replace(':', '-')}.png", ranking, proxy)
    forest(results.FOLDER / f"{name}.png", ranking)
    click.echo("\n".join(lines))


def _markdown(headers: Any, rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(headers)} |",
        "|---" * len(headers) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def forest(path: Path, ranking: Ranking) -> None:
    """Spearman's rho of every score with its interval: what costs nothing, each proxy's own, and averages of both."""
    from matplotlib.figure import Figure

    free = [*BASELINES, FREE_AVERAGE]
    groups = {"free": free}
    for proxy in ranking.trainings:
        groups[proxy] = [f"{proxy} {score}" for score in SCORES] + [
            f"{proxy} {score} + {FREE_AVERAGE}" for score in SCORES
        ]
    figure = Figure(
        figsize=(7.2, 0.8 + 0.22 * sum(map(len, groups.values()))), layout="constrained", dpi=150
    )
    axes = figure.subplots()
    labels: list[str] = []
    ticks: list[float] = []
    for number, (group, columns) in enumerate(groups.items()):
        found = [ranking.agreements[column]["spearman"] for column in columns]
        rows = [
            len(labels) + 0.6 * number + row for row in range(len(columns))
        ]  # a gap between groups
        ticks += rows
        arms = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
        colour = "#555555" if group == "free" else f"C{number - 1}"
        axes.errorbar(
            [e.value for e in found],
            rows,
            xerr=arms,
            fmt="o",
            color=colour,
            markersize=4,
            capsize=2,
            linewidth=1.2,
        )
        labels += [
            column.replace(FREE_AVERAGE, "free") if column != FREE_AVERAGE else f"{column} (free)"
            for column in columns
        ]
    for column, style in ((YARDSTICK, "--"), (FREE_AVERAGE, ":")):
        axes.axvline(
            ranking.agreements[column]["spearman"].value,
            color="#555555",
            linestyle=style,
            linewidth=1,
        )
    axes.set_yticks(ticks, [label.replace("_", " ") for label in labels], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlabel(f"Spearman's rho over {len(ranking)} architectures, 95 % intervals")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _crossings(ranking: Ranking, sizes: list[int]) -> list[str]:
    """For each score, the fewest real images with which it agrees as well as the parameter count."""
    bar, lines = ranking.agreements[YARDSTICK]["spearman"].value, []
    for score in SCORES:
        rhos = {
            size: ranking.agreements[f"random:{size} {score}"]["spearman"].value for size in sizes
        }
        above = next((size for size, rho in rhos.items() if rho >= bar), None)
        where = (
            f"from {above} real images per class on"
            if above
            else f"nowhere up to {sizes[-1]} real images per class"
        )
        lines.append(
            f"- `{score}` reaches the parameter count's {bar:.2f} {where} (estimates; see the intervals)"
        )
    return lines


def _by_pass(folder: Path, ranking: Ranking) -> dict[str, list[Estimate]]:
    """By proxy: Spearman's rho of the sum of the training losses of the first 1, 2, ... passes of the very same trainings."""
    assert ranking.truth is not None
    plan, found = load_plan(folder), {}
    with Trials(str(plan.store)) as store:
        curves = {
            trial.key: trial.result["curve"].get("loss", [])
            for trial in store.find(plan.keys.kind).values()
        }
    for proxy in ranking.trainings:
        runs = [
            [curves[plan.keys.of(SearchTask(seed, i, proxy))] for seed in range(plan.seeds)]
            for i in ranking.indices
        ]
        longest = max(len(curve) for one in runs for curve in one)
        table = [
            [curve + [math.inf] * (longest - len(curve)) for curve in one] for one in runs
        ]  # diverged ones end early
        losses = np.cumsum(
            np.nan_to_num(np.mean(table, axis=1), nan=math.inf, posinf=math.inf), axis=1
        )
        found[proxy] = [agreement(-column, ranking.truth)["spearman"] for column in losses.T]
    return found


def _pass_lines(passes: dict[str, list[Estimate]]) -> list[str]:
    chosen = [n for n in (1, 2, 5, 10, 15, 20) if n <= max(map(len, passes.values()))]
    rows = [
        [name, *(interval(found[n - 1]) if n <= len(found) else "" for n in chosen)]
        for name, found in passes.items()
    ]
    told = (
        "Spearman's rho of the training losses summed over the first passes of the same trainings."
    )
    return [told, "", *_markdown(("proxy", *(f"{n} passes" for n in chosen)), rows)]


def curve(path: Path, ranking: Ranking, passes: dict[str, list[Estimate]]) -> None:
    """Spearman's rho against the images per class, condensed sets as stars; and of the summed loss against the passes."""
    from matplotlib.figure import Figure

    real = "random:"
    sizes = [int(name.removeprefix(real)) for name in ranking.trainings if name.startswith(real)]

    figure = Figure(figsize=(9.6, 4), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True)
    condensed = [proxy for proxy in ranking.trainings if not proxy.startswith("random:")]
    for number, score in enumerate(SCORES):
        found = [ranking.agreements[f"random:{size} {score}"]["spearman"] for size in sizes]
        arms = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
        places = [size * (0.96 + 0.04 * number) for size in sizes]  # side by side
        style: dict[str, Any] = {
            "color": f"C{number}",
            "marker": "o",
            "capsize": 3,
            "label": score.replace("_", " "),
        }
        left.errorbar(places, [e.value for e in found], yerr=arms, **style)
        for proxy in condensed:
            value = ranking.agreements[f"{proxy} {score}"]["spearman"].value
            left.plot(
                [0.88 * sizes[0]],
                [value],
                color=f"C{number}",
                marker="*",
                markersize=11,
                linestyle="none",
            )
    left.set(
        xscale="log",
        xlabel="real images per class (stars: condensed sets)",
        ylabel="Spearman's rho, 95 % intervals",
    )
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.minorticks_off()
    for number, (proxy, rhos) in enumerate(passes.items()):
        epochs, colour = range(1, len(rhos) + 1), f"C{number + len(SCORES)}"
        right.plot(epochs, [e.value for e in rhos], color=colour, label=proxy)
        right.fill_between(
            epochs,
            [e.low for e in rhos],
            [e.high for e in rhos],
            color=colour,
            alpha=0.08,
            linewidth=0,
        )
    right.set_xlabel("passes over which the training loss is summed")
    right.set_xticks([1, *range(5, max(map(len, passes.values())) + 1, 5)])
    for axes in (left, right):
        axes.axhline(
            ranking.agreements[YARDSTICK]["spearman"].value,
            color="#333333",
            linestyle="--",
            label=YARDSTICK,
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8
        )  # above: curves go anywhere
    save_figure(figure, path)


if __name__ == "__main__":
    main()
