"""The command line of condensekit: parse, call, print. `python cli.py --help`, or `condensekit --help` once installed."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from condense.errors import UserError
from condense.options import (
    config_option,
    data_options,
    device_option,
    find_source,
    json_option,
    pairs,
    seed_option,
    show_facts,
)
from nas.command import nas

if TYPE_CHECKING:
    from condense.training.score import Score


def main() -> None:
    """Run the command line; bad input is one line and exit code 2, an interrupt 130."""
    from condense.study.interrupt import Interrupted

    try:
        cli.main(standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except Interrupted as stopped:
        _fail(str(stopped), 130)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}" if code == 2 else message, err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Distil an image dataset into a few synthetic images per class, and put them to work.

    \b
    Start here:
      condensekit condense --dataset digits --ipc 5 --steps 200 --out runs/digits
      condensekit evaluate runs/digits --repeats 5 --epochs 300
      condensekit show runs/digits
    """


@cli.command()
@config_option
@data_options
@click.option("--ipc", type=int, default=10, show_default=True, help="Images per class.")
@click.option(
    "--recipe",
    "recipe_name",
    help="paper (DataDAM's), official-code, best, or a method: as its authors published it.  [default: paper]",
)
@click.option(
    "--method",
    help="datadam, dm, mmd, cafe, dc, dsa, mtt, dd, kip, ld, gmmn, cgan, vae: as published; with --recipe, under its other ones.",
)
@click.option(
    "--experts",
    type=click.Path(),
    help="For mtt: the folder of expert trajectories (see `condensekit experts`).",
)
@click.option("--steps", type=int, help="Steps; default: the recipe's.")
@click.option("--network", help="Network to match under, such as convnet or convnet-d3-w128-batch.")
@click.option("--real-batch", type=int, help="Real images of each class in a step.")
@click.option(
    "--loss-scale",
    type=float,
    help="Factor on the loss; with --lr it sets how far the pixels move.",
)
@click.option("--power", type=float, help="Power p of DataDAM's attention maps.")
@click.option("--task-balance", type=float, help="DataDAM's lambda: weight of the mean matching.")
@click.option("--lr", type=float, help="Learning rate of the pixels.")
@click.option("--init", help="Starting images: random, kcenter, herding, forgetting or noise.")
@click.option("--preprocess", help="standard or zca.")
@click.option(
    "--augment", help="dsa, dsa-noflip, none, or some of color_crop_cutout_flip_scale_rotate."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other hyperparameter; may be repeated.",
)
@seed_option
@device_option
@click.option(
    "--chunk",
    type=int,
    help="Classes treated at once; fewer need less memory. Default: chosen for the device.",
)
@click.option(
    "--checkpoint-every", default=200, show_default=True, help="Steps between checkpoints."
)
@click.option(
    "--storage",
    default="float32",
    show_default=True,
    help="How images are stored: float32, float16 or uint8.",
)
@click.option("--out", type=click.Path(), help="Run folder, made here.")
@click.option(
    "--resume",
    type=click.Path(),
    help="Go on with the run in this folder; no other flag is needed.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved recipe, and time and memory of a few steps."
)
@json_option
def condense(
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    ipc: int,
    recipe_name: str | None,
    method: str | None,
    settings: tuple[str, ...],
    seed: int,
    device: str,
    chunk: int | None,
    checkpoint_every: int,
    storage: str,
    out: str | None,
    resume: str | None,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Condense a dataset into a few images per class.

    \b
    condensekit condense --dataset cifar10 --data-dir DIR --ipc 10 --loss-scale 100 --steps 8000 --out runs/c10-ipc10
    condensekit condense --resume runs/c10-ipc10

    A run can be stopped or killed at any time; resumed, it ends with the same file as if it had not been.
    """
    from condense.methods import recipes
    from condense.runs import run

    if resume is not None:
        run.resume(resume)
        _say_run(Path(resume), as_json)
        return
    source = find_source(dataset, data_dir, resolution, hold_out)
    if out is None and not dry_run:
        raise UserError(
            "--out is missing: name the run folder (or --dry-run to see what would be done)"
        )
    real = source.load(download=download)
    recipe = recipes.recipe_for(
        recipe_name or recipes.published_as(method or "datadam"),
        real.name,
        real.shape,
        ipc,
        method=method,
    )
    recipe = recipe.override(
        {key: value for key, value in flags.items() if value is not None} | pairs(settings)
    )
    if dry_run:
        show_facts(
            run.rehearse(real, ipc=ipc, recipe=recipe, seed=seed, device=device, chunk=chunk),
            as_json,
        )
        return
    run.condense(
        real, ipc=ipc, recipe=recipe, seed=seed, out=out, device=device, chunk=chunk,
        checkpoint_every=checkpoint_every, storage=storage, source=source,
    )  # fmt: skip
    _say_run(Path(str(out)), as_json)


@cli.command()
@config_option
@data_options
@click.option(
    "--count",
    default=100,
    show_default=True,
    help="Experts; a folder that has some is filled up to so many.",
)
@click.option("--network", default="convnet", show_default=True, help="Network to train.")
@click.option(
    "--preprocess",
    default="zca",
    show_default=True,
    help="standard or zca: that of the run they are for.",
)
@click.option(
    "--passes",
    default=50,
    show_default=True,
    help="Passes over the real images; the weights after each are kept.",
)
@click.option("--lr", default=0.01, show_default=True, help="Learning rate.")
@click.option("--batch", default=256, show_default=True, help="Images in a step.")
@click.option("--augment", default="dsa", show_default=True, help="Augmentation of each batch.")
@click.option(
    "--storage",
    default="float16",
    show_default=True,
    help="How weights are stored: float16 or float32.",
)
@seed_option
@device_option
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="Folder for the experts. The same command again goes on.",
)
@json_option
def experts(
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    count: int,
    device: str,
    out: str,
    as_json: bool,
    **training: Any,
) -> None:
    """Train networks on the whole real set and keep their weights after every pass: the trajectories that mtt imitates.

    \b
    condensekit experts --dataset cifar10 --data-dir DIR --out runs/experts
    condensekit condense --method mtt --experts runs/experts --dataset cifar10 --data-dir DIR --out runs/mtt
    """
    from condense.training.experts import Training, train_experts

    real = find_source(dataset, data_dir, resolution, hold_out).load(download=download)
    made = train_experts(real, Training(**training), count, out, device=device, quiet=as_json)
    show_facts({"folder": out, "experts": made.count, "passes": made.passes}, as_json)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@config_option
@data_options
@click.option(
    "--network",
    "networks",
    multiple=True,
    default=["convnet"],
    help="Network to train; may be repeated.  [default: convnet]",
)
@click.option("--repeats", default=20, show_default=True, help="Networks trained on each set.")
@click.option(
    "--protocol",
    "protocol_name",
    default="dm",
    show_default=True,
    help="dm (1,000 epochs, batch 256), datadam-code (1,800, 64), kip (dm's, squared error) or mtt (dm's, the set's rate).",
)
@click.option("--epochs", type=int, help="Passes over the set; default: the protocol's.")
@click.option("--augment", help="Augmentation in training; default: the protocol's.")
@seed_option
@device_option
@click.option(
    "--workers",
    default=0,
    show_default=True,
    help="Processes that train; 0 for none but this one.",
)
@click.option("--threads", type=int, help="Threads of each process on a CPU.")
@click.option(
    "--cluster",
    help="Train on Ray instead: ray://HOST:PORT, auto (this machine's cluster) or local.",
)
@click.option(
    "--minutes",
    type=float,
    help="Stop after that long; what is finished is kept, the same command goes on.",
)
@click.option(
    "--store",
    type=click.Path(),
    help="SQLite file for what is measured.  [default: evaluations.sqlite in each run folder]",
)
@json_option
def evaluate(
    runs: tuple[str, ...],
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    networks: tuple[str, ...],
    repeats: int,
    protocol_name: str,
    epochs: int | None,
    augment: str | None,
    seed: int,
    minutes: float | None,
    store: str | None,
    as_json: bool,
    **machine: Any,
) -> None:
    """Train networks on condensed sets and measure them on the real test set.

    RUNS are run folders or set files. Several are sets of one kind (say, five seeds): the interval
    is then over the sets.

    Each accuracy is kept in the run folder as soon as the network is tested. Stopped or killed, the
    same command goes on; with more --repeats it trains only those that are new.
    """
    from condense.runs.evaluations import measure
    from condense.runs.shelf import source_of
    from condense.sets.condensed import CondensedSet
    from condense.study.workers import Workers
    from condense.training.evaluate import Evaluation
    from condense.training.train import protocol_for

    sets = [CondensedSet.load(path) for path in runs]
    source = (
        find_source(dataset, data_dir, resolution, hold_out)
        if dataset
        else source_of(Path(runs[0]), data_dir)
    )
    real = source.load(download=download)
    changes: dict[str, Any] = {"epochs": epochs, "augment": augment}
    chosen = dataclasses.replace(
        protocol_for(protocol_name, real.name),
        **{key: value for key, value in changes.items() if value is not None},
    )
    bench = Evaluation.of(sets, real, networks, repeats, chosen, seed)
    measured = measure(
        bench, runs, workers=Workers(**machine), minutes=minutes, store=store, quiet=as_json
    )
    if as_json:
        document = {
            "networks": {name: score.to_json() for name, score in measured.scores.items()},
            "sets": list(runs),
            "protocol": dataclasses.asdict(chosen),
            "seed": seed,
            "tested_on": bench.tested_on,
            "done": measured.done,
            "total": measured.total,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(
        f"accuracy on {bench.tested_on}; "
        f"{len(sets)} set(s) x {repeats} network(s), {chosen.epochs} epochs"
    )
    for name, score in measured.scores.items():
        click.echo(f"{name:<40} {_score(score)}")
    if measured.left:
        click.echo(
            f"note: {measured.left} of {measured.total} networks are still to be trained, and the "
            f"scores are over those that are finished on every set; {measured.how_to_go_on}"
        )


def _score(score: "Score") -> str:
    """Mean, standard deviation and interval, in percent."""
    low, high = (100 * bound for bound in score.ci95)
    return (
        f"{100 * score.mean:6.2f} %  std {100 * score.std:.2f}  "
        f"95 % interval {low:.2f} to {high:.2f}"
    )


@cli.command()
@config_option
@data_options
@click.option(
    "--method", default="random", show_default=True, help="random, herding, kcenter or forgetting."
)
@click.option("--ipc", type=int, default=10, show_default=True, help="Images per class.")
@click.option("--preprocess", default="standard", show_default=True, help="standard or zca.")
@seed_option
@device_option
@click.option(
    "--storage",
    default="uint8",
    show_default=True,
    help="float32, float16 or uint8 (lossless for real images).",
)
@click.option("--out", required=True, type=click.Path(), help="Folder for the set.")
def select(
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    method: str,
    ipc: int,
    preprocess: str,
    seed: int,
    device: str,
    storage: str,
    out: str,
) -> None:
    """Select real images as a set: the baselines every condensed set has to beat."""
    from condense.runs import shelf

    source = find_source(dataset, data_dir, resolution, hold_out)
    shelf.select_into(
        Path(out), source.load(download=download), source, method=method, ipc=ipc,
        preprocess=preprocess, seed=seed, device=device, storage=storage,
    )  # fmt: skip
    _say_run(Path(out), as_json=False)


@cli.command()
@click.argument("path", type=click.Path())
@click.option("--grid", type=click.Path(), help="Also draw the images as a PNG here.")
@json_option
def show(path: str, grid: str | None, as_json: bool) -> None:
    """Say what a condensed set holds, where it came from, and what it was measured to be worth."""
    from condense.report.pictures import grid as draw
    from condense.runs.evaluations import rows
    from condense.sets.condensed import CondensedSet

    condensed = CondensedSet.load(path)
    if grid:
        draw(condensed, grid)
    facts = {
        "images": len(condensed),
        "shape": condensed.shape,
        "classes": condensed.classes,
        "ipc": condensed.ipc,
        "formation": condensed.formation,
        "labels": "soft" if condensed.soft else "hard",
        "preprocess": condensed.preprocess.name,
        "fingerprint": condensed.fingerprint,
        "bytes": {
            storage: condensed.nbytes(storage) for storage in ("float32", "float16", "uint8")
        },
        "provenance": condensed.provenance,
    }
    evaluations = rows(path, condensed)
    if as_json:
        facts["evaluations"] = [row.to_json() for row in evaluations]
    show_facts(facts, as_json)
    if as_json:
        return
    for row in evaluations:
        count, of = len(row.score.accuracies), f"by {row.protocol_text}, on {row.tested_on}"
        click.echo(f"{row.network:<40} {_score(row.score)}  {count} network(s) {of}")


@cli.command("export")
@click.argument("path", type=click.Path())
@click.option(
    "--format",
    "kind",
    default="folder",
    show_default=True,
    help="folder (PNG by class), npz or pt.",
)
@click.option("--out", required=True, type=click.Path(), help="File or folder to write.")
def export_command(path: str, kind: str, out: str) -> None:
    """Write a set in a format other tools read."""
    from condense.sets.condensed import CondensedSet
    from condense.sets.exchange import export_set

    export_set(CondensedSet.load(path), out, kind)
    click.echo(out)


@cli.command("import")
@click.argument("path", type=click.Path())
@data_options
@click.option(
    "--preprocess",
    required=True,
    help="The transform its images are in: standard or zca. Such files do not say.",
)
@click.option(
    "--experiment", default=0, show_default=True, help="Which of the sets in a published .pt file."
)
@click.option("--storage", default="float32", show_default=True, help="float32, float16 or uint8.")
@click.option("--out", required=True, type=click.Path(), help="Folder for the set.")
def import_command(
    path: str,
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    preprocess: str,
    experiment: int,
    storage: str,
    out: str,
) -> None:
    """Read a set published by others: a .pt file, a folder of pictures by class, or .npz."""
    from condense.runs import shelf

    source = find_source(dataset, data_dir, resolution, hold_out)
    shelf.import_into(
        Path(out),
        Path(path),
        source.load(download=download),
        source,
        preprocess=preprocess,
        experiment=experiment,
        storage=storage,
    )
    _say_run(Path(out), as_json=False)


@cli.command()
@data_options
@click.option("--list", "list_", is_flag=True, help="List the datasets known by name.")
@click.option("--verify", is_flag=True, help="Check that a dataset is there and whole.")
@json_option
def data(
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    list_: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """List, check or describe datasets."""
    from condense.data.catalogue import DATASETS
    from condense.data.catalogue import verify as verify_files

    if list_ or dataset is None:
        show_facts(DATASETS, as_json)
        return
    if verify:
        for line in verify_files(dataset, data_dir, resolution=resolution):
            click.echo(line)
        return
    real = find_source(dataset, data_dir, resolution, hold_out).load(download=download)
    counts = real.train.counts()
    show_facts(
        {
            "name": real.name,
            "shape": real.shape,
            "classes": len(real.classes),
            "train": len(real.train),
            "test": len(real.test),
            "smallest class": int(counts.min()),
            "largest class": int(counts.max()),
            "fingerprint": real.fingerprint,
        },
        as_json,
    )


@cli.command()
@config_option
@data_options
@click.option(
    "--steps", default=10, show_default=True, help="Experiences; they divide the classes."
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="random, herding, kcenter, datadam, dm (settings as in datadam:loss_scale=100,lr=1), a set's path, or class-balanced "
    "(Avalanche's own, in replay); may be repeated.  [default: random, herding, datadam:loss_scale=100, and in replay "
    "class-balanced]",
)
@click.option("--ipc", default=20, show_default=True, help="Images per class in the memory.")
@click.option(
    "--orders", default=5, show_default=True, help="Class orders: NumPy's seeds 0, 1, ..."
)
@click.option("--repeats", default=3, show_default=True, help="Networks of each order.")
@click.option(
    "--mode",
    default="scratch",
    show_default=True,
    help="scratch (the paper's) or replay (an Avalanche strategy).",
)
@click.option(
    "--strategy",
    default="replay",
    show_default=True,
    help="In replay: replay, lwf, gdumb, er-ace or mir.",
)
@click.option("--network", default="convnet", show_default=True, help="Network that learns.")
@click.option(
    "--epochs", type=int, help="Passes at each step; default: 1,000 from scratch, 20 in replay."
)
@click.option(
    "--batch",
    default=256,
    show_default=True,
    help="Images in a minibatch of the network that learns.",
)
@click.option(
    "--condense-steps", type=int, help="Steps of every condensation; default: each recipe's."
)
@click.option(
    "--classes", type=int, help="Take so many of the dataset's classes: a smaller problem."
)
@click.option(
    "--storage", default="uint8", show_default=True, help="How memories are kept: uint8 or float32."
)
@seed_option
@device_option
@click.option(
    "--out",
    default="runs/continual",
    show_default=True,
    type=click.Path(),
    help="Run folder, made here.",
)
@click.option(
    "--cache",
    type=click.Path(),
    help="Folder of memories that several runs share; default: one in --out.",
)
@click.option(
    "--resume",
    type=click.Path(),
    help="Go on with the run in this folder; no other flag is needed.",
)
@json_option
def continual(
    dataset: str | None,
    data_dir: str | None,
    resolution: int | None,
    hold_out: int,
    download: bool,
    methods: tuple[str, ...],
    out: str,
    cache: str | None,
    resume: str | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Measure condensed memories in class-incremental learning, on CIFAR-100 unless told otherwise.

    \b
    condensekit continual --steps 10 --data-dir DIR --out runs/cl
    condensekit continual --resume runs/cl
    condensekit continual --steps 5 --dataset digits --ipc 2 --epochs 100 --condense-steps 100
    condensekit continual --steps 5 --dataset digits --mode replay --strategy er-ace --out runs/er-ace
    """
    from continual import study as protocol
    from continual.plan import METHODS

    if resume is not None:
        measured, folder = protocol.resume(resume, quiet=as_json), resume
    else:
        source, folder = find_source(dataset or "cifar100", data_dir, resolution, hold_out), out
        try:
            real = source.load(download=download)
        except UserError as error:
            hint = "; or try it without any files: --dataset digits" if dataset is None else ""
            raise UserError(f"{error}{hint}") from None
        chosen = protocol.Plan(methods=methods or METHODS.get(plan["mode"], ()), **plan)
        measured = protocol.run(real, chosen, out, source=source, cache=cache, quiet=as_json)
    if as_json:
        click.echo(json.dumps(measured.to_json(), indent=2))
        return
    from rich.console import Console

    from continual.results import live

    Console().print(live(measured))
    click.echo(f"report           {Path(folder) / 'report.html'}")


def _say_run(folder: Path, as_json: bool) -> None:
    files = {
        "set": str(folder / "set.safetensors"),
        "picture": str(folder / "grid.png"),
        "run": str(folder / "run.json"),
    }
    show_facts(files, as_json)


cli.add_command(nas)


if __name__ == "__main__":
    main()
