"""The tables of accuracies: which sets, which networks, beside which published figures."""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from benchmarks.tables.entries import Entry
from benchmarks.tables.lines import (
    POOLS,
    SCALE_100,
    SETTINGS,
    Line,
    Lines,
    Place,
    TableScale,
    main_lines,
)
from condense.data.catalogue import Source
from condense.methods import METHODS
from condense.methods.recipes import published_as
from condense.report import papers


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What is to be measured, and how it is told."""

    title: str
    entries: tuple[Entry, ...]
    published: papers.Figures
    notes: tuple[str, ...] = ()


_MAIN = {
    "smoke": [("digits", 1)],
    "cpu": [("cifar10", 1), ("cifar10", 10)],
    "full": [
        (dataset, ipc) for dataset in ("cifar10", "cifar100", "tinyimagenet") for ipc in (1, 10, 50)
    ],
}
_HIGH_RESOLUTION: dict[str, list[tuple[Source, int]]] = {
    "smoke": [(Source(name="digits", resolution=16), 1)],
    "cpu": [(Source(name="imagenette", resolution=64), ipc) for ipc in (1, 10)],
    "full": [(Source(name="imagenet-1k"), ipc) for ipc in (1, 2, 10, 50)],
}
for _name in ("imagenette", "imagewoof", "imagesquawk"):
    _HIGH_RESOLUTION["full"] += [(Source(name=_name), ipc) for ipc in (1, 10)]
_OTHERS = tuple(method for method in METHODS if method != "datadam")


class _Cross(NamedTuple):
    """What is crossed, with which methods beside DataDAM, and how networks are trained."""

    source: Source
    ipc: int
    methods: tuple[str, ...]
    epochs: int
    batch: int
    vgg: str = "vgg11-in"


_CROSS = {
    "smoke": _Cross(Source(name="digits"), 1, (), epochs=2, batch=256),
    # A ResNet-18 or ViT takes minutes for each set. Small batches: a network without normalisation
    # learns nothing in few steps.
    "cpu": _Cross(
        Source(name="cifar10", resolution=16), 10, ("dm",), epochs=40, batch=10, vgg="vgg11-bn"
    ),
    "full": _Cross(Source(name="cifar10"), 50, _OTHERS, epochs=1001, batch=256),
}
_BY_BATCH_NORM = ("random", "official-code")
"""The lines that are judged by networks with batch norm, too."""
_AT_TEN = {"smoke": ("digits", 1), "cpu": ("cifar10", 10), "full": ("cifar10", 10)}


def main(scale: TableScale) -> Table:
    """Accuracy by method, dataset and images per class."""
    places = _MAIN[scale.name]
    entries = _entries(scale, {(Source(name=name), ipc): main_lines(name) for name, ipc in places})
    return Table(
        title="Accuracy by method",
        entries=tuple(chain.from_iterable(map(_judged, entries))),
        published=papers.MAIN,
        notes=(
            "Preprocessing: standardisation; ZCA where the line says so, for `datadam` (the "
            "paper's, on CIFAR) and for methods published with it. `dm` was published without. "
            "Compare a line with the random images under the same preprocessing.",
            "`datadam` is the paper taken literally, loss scale 1; `scale 100` is the published "
            "code's and the usable form.",
            "`best, soft labels` stands apart: it stores a number a class beside each image.",
            "`official-code` is matched under networks with batch norm, and its authors judge it "
            "by such networks: the lines `by batch norm` do, and are to be compared with each "
            "other.",
        ),
    )


def _judged(entry: Entry) -> tuple[Entry, ...]:
    """The entry, and beside it the one that networks with batch norm judge, if they do."""
    if entry.row not in _BY_BATCH_NORM:
        return (entry,)
    joint = replace(entry.trained, network=f"{entry.trained.network}-batch")
    return entry, replace(entry, row=f"{entry.row}, by batch norm", trained=joint)


_ORDERED = ["random", "dm", "datadam, scale 100", "best"]
_ORDERED += ["dm, ZCA", "best, mosaics alone", "best, unlearned"]


def order(scale: TableScale) -> Table:
    """The order of the main claims: some rows of the main table with twice as many sets."""
    dataset, ipc = _AT_TEN[scale.name]
    lines = main_lines(dataset)
    chosen = {row: lines[row] for row in _ORDERED if row in lines}
    scale = replace(scale, seeds=2 * scale.seeds)
    return Table(
        title="The order of the methods",
        entries=_entries(scale, {(Source(name=dataset), ipc): chosen}),
        published=papers.MAIN,
        notes=(
            "`best` and `datadam` are under ZCA, the paper's preprocessing; `dm` was published "
            "without: compare it by `dm, ZCA`.",
        ),
    )


def high_resolution(scale: TableScale) -> Table:
    """Random, DM and DataDAM on ImageNet and its subsets."""
    lines: Lines = {
        "random": "standard",
        "dm": Line("dm"),
        "datadam": Line("paper"),
        "datadam, scale 100": SCALE_100,
    }
    return Table(
        title="Accuracy on larger images",
        entries=_entries(scale, dict.fromkeys(_HIGH_RESOLUTION[scale.name], lines)),
        published=papers.HIGH_RESOLUTION,
    )


def _entries(scale: TableScale, lines: dict[tuple[Source, int], Lines]) -> tuple[Entry, ...]:
    """An entry for each line of each dataset and number of images per class."""
    return tuple(
        Entry(row, f"{at.source.name} IPC {at.ipc}", at.sets(line, row), at.trained)
        for (source, ipc), of_column in lines.items()
        for at in [Place(scale, source, ipc)]
        for row, line in of_column.items()
    )


def cross(scale: TableScale) -> Table:
    """Sets made with one architecture, networks of another trained on them."""
    source, ipc, methods, epochs, batch, vgg = _CROSS[scale.name]
    seeds = {"smoke": 1, "cpu": 3}.get(scale.name, scale.seeds)
    at = Place(replace(scale, seeds=seeds, epochs=epochs), source, ipc)
    base = replace(at.trained, protocol=replace(at.trained.protocol, batch=batch))
    networks = {"convnet": scale.network, "alexnet": "alexnet", "vgg11": vgg}
    networks |= {"resnet18": "resnet18-bn", "vit": "vit-tiny"}
    if scale.name == "smoke":  # drawing the weights of the others takes longer than all else
        networks = {name: networks[name] for name in ("convnet", "alexnet")}
    lines: Lines = {"random": "standard"}
    lines |= {f"{method} from convnet": Line(published_as(method)) for method in methods}
    for made_with in (name for name in ("convnet", "alexnet", "vgg11") if name in networks):
        lines[f"datadam from {made_with}"] = SCALE_100.but(network=networks[made_with])
    if source.name == "cifar10":  # where DataDAM whitens, and the others do not
        lines["random, ZCA"] = "zca"
        lines["datadam from convnet, no ZCA"] = SCALE_100.but(preprocess="standard")
    sets = {row: at.sets(line, row) for row, line in lines.items()}
    data = f"{source.name} at {source.resolution} px" if source.resolution else source.name
    return Table(
        title=f"Cross-architecture accuracy, {data}, {ipc} images per class: rows made, "
        "columns trained",
        entries=tuple(
            Entry(row, column, of_row, replace(base, network=network))
            for row, of_row in sets.items()
            for column, network in networks.items()
        ),
        published=papers.CROSS,
        notes=(
            "`datadam` has loss scale 100 and, but where the row says so, ZCA: compare it with "
            "the random "
            "images that have it too.",
            f"Networks are trained in batches of {batch}. The papers' VGG-11 has instance norm, "
            f"of which nothing is left up to 16 px: here it is `{vgg}`. ResNet-18 has batch norm. "
            "The paper's figures are for 50 images per class.",
        ),
    )


_POWERS = {"smoke": (1, 4), "cpu": (1, 2, 4, 8, 16), "full": (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)}
_LAMBDAS = {
    "smoke": (0.01,),
    "cpu": (0.001, 0.01, 0.1),
    "full": (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0),
}
_STARTS = {
    "smoke": ("random", "kcenter", "noise"),
    "cpu": ("random", "noise"),
    "full": ("random", "kcenter", "noise"),
}
"""K-center needs a network trained on all real images, which takes a CPU 20 minutes a set."""


def ablation(scale: TableScale) -> Table:
    """DataDAM with one thing changed at a time."""
    dataset, ipc = _AT_TEN[scale.name]
    # Two dozen sets a seed: at the `cpu` scale with a smaller network, which judges them too.
    network = SETTINGS[scale.name].get("ablation", {}).get("network", scale.network)
    seeds = 1 if scale.name == "smoke" else scale.seeds
    scale = replace(scale, seeds=seeds, network=network)
    at, column = Place(scale, Source(name=dataset), ipc), f"IPC {ipc}"
    changed: dict[str, dict[str, Any]] = {
        "loss: attention and mmd": {},
        "loss: attention alone": {"task_balance": 0.0},
        "loss: mmd alone": {"layers": ()},
        "attention of layer 1 alone": {"layers": (0,)},
        "attention of layer 2 alone": {"layers": (1,)},
        **{f"power p = {power}": {"power": float(power)} for power in _POWERS[scale.name]},
        **{f"lambda = {balance:g}": {"task_balance": balance} for balance in _LAMBDAS[scale.name]},
        **{f"error: {error}": {"error": error} for error in ("mse", "mae", "cosine")},
        **{f"normalisation: {norm}": {"normalise": norm} for norm in ("l2", "l1", "none")},
        **{f"start: {start}": {"init": start} for start in _STARTS[scale.name]},
    }
    for low in (0, 20, 40, 60, 80):
        stage = {"pool_from": low / 100, "pool_to": (low + 20) / 100}
        changed[f"networks trained {low} to {low + 20} %"] = POOLS[scale.name] | stage
    sets = {row: at.sets(SCALE_100.but(**of), "ablation") for row, of in changed.items()}
    entries = [Entry(row, column, of_row, at.trained) for row, of_row in sets.items()]
    for augment in (at.trained.protocol.augment, "autoaugment", "randaugment", "none"):
        trained = replace(at.trained, protocol=replace(at.trained.protocol, augment=augment))
        row = f"augmentation in evaluation: {augment}"
        entries.append(Entry(row, column, at.sets(SCALE_100, "ablation"), trained))
    return Table(
        title=f"DataDAM with one thing changed, {dataset}, {ipc} images per class",
        entries=tuple(entries),
        published=papers.ABLATION,
        notes=(
            "The base is the recipe `paper` with loss scale 100: p = 4, lambda = 0.01, mse, l2, "
            "attention of all layers but the last, random real images to start from.",
            "Networks trained a to b %: points that far along the way from the first to the last "
            "weights of networks that were trained on the real images. The paper sorts networks "
            "by their accuracy instead.",
            "Not there: the transfer of whole feature maps.",
        ),
    )


TABLES = {"main": main, "order": order, "high-resolution": high_resolution}
TABLES |= {"cross": cross, "ablation": ablation}
