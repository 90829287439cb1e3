"""Where synthetic images lie among real ones, in the embedding of a ResNet-18 trained on real ones.

There is one t-SNE map of the real images and of all sets together, so that the pictures can be
compared, one for each method. Two numbers are taken in the embedding itself, not in the map: the
share of synthetic images whose ten nearest real images are mostly of their class, and how far the
mean of a class is from that of its real images, in within-class standard deviations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.tables.bench import TableBench, TableWork
from benchmarks.tables.lines import Lines, Place, TableScale, method_lines
from condense import CondensedSet, Protocol
from condense.data.augment import suited
from condense.data.catalogue import Source
from condense.data.images import Dataset, Images
from condense.data.preprocess import Preprocess, make_preprocess
from condense.files import load_tensors, save_tensors
from condense.networks.base import Network
from condense.networks.build import build
from condense.randomness import generator
from condense.report import charts, tables
from condense.report.blocks import Chart, Section, Table, Text
from condense.report.figures import panel, save_figure
from condense.runs.shelf import Made
from condense.training.score import Statistic
from condense.training.train import accuracy, train

_NEIGHBOURS = 10
_BATCH = 100
_DOTS: dict[str, Any] = {"s": 6, "alpha": 0.35, "linewidths": 0}
_STARS: dict[str, Any] = {"s": 70, "marker": "*", "edgecolors": "black", "linewidths": 0.6}
HEADERS = ["set", "with their own class, %", "95 % interval"]
HEADERS += ["offset of the class mean", "95 % interval"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingScale:
    """What is mapped at a scale."""

    dataset: str
    ipc: int
    trained_on: int
    """Real images, stratified, that the ResNet-18 is trained on, and as many at most tested on."""
    epochs: int
    shown: int
    """Real images of each class in the map."""


SCALES = {
    "smoke": EmbeddingScale(dataset="digits", ipc=1, trained_on=100, epochs=1, shown=10),
    "cpu": EmbeddingScale(dataset="cifar10", ipc=10, trained_on=3000, epochs=6, shown=100),
    "full": EmbeddingScale(dataset="cifar10", ipc=50, trained_on=50_000, epochs=50, shown=1000),
}


def lines() -> Lines:
    """Random real images and every method, under one preprocessing: one network looks at all."""
    return {"random": "standard", **method_lines()}


def measure(scale: TableScale, work: TableWork) -> dict[str, Any]:
    """The map of all sets and of the real images, two numbers a set, and the ResNet's accuracy."""
    chosen = SCALES[scale.name]
    dataset = work.bench.dataset(Source(name=chosen.dataset))
    sets, failed = _sets(scale, chosen, work)
    preprocess = make_preprocess("standard", dataset)
    network, reached = _network(dataset, preprocess, chosen, work.bench)
    shown = _stratified(dataset.train, chosen.shown * len(dataset.classes), "shown")
    real = _embed(network, preprocess.apply(shown.pixels), work.bench.place)
    place = work.bench.place
    features = {name: _embed(network, one.images, place) for name, one in sets.items()}
    labels = {"real": shown.labels.numpy()}
    labels |= {name: one.class_of().numpy() for name, one in sets.items()}
    points = np.concatenate([real, *features.values()])
    places = TSNE(perplexity=min(30, len(points) // 4), random_state=0).fit_transform(points)
    cuts = np.cumsum([len(real), *map(len, features.values())])
    mapped = zip(labels, np.split(places, cuts[:-1]), strict=True)
    plan = {key: getattr(chosen, key) for key in ("dataset", "ipc", "trained_on", "epochs")}
    return {
        "plan": plan,
        "resnet18_accuracy": reached,
        "failed": failed,
        "classes": list(dataset.classes),
        "labels": {name: classes.tolist() for name, classes in labels.items()},
        "map": {name: np.round(at, 2).tolist() for name, at in mapped},
        "measures": {
            name: compare(real, labels["real"], features[name], labels[name]) for name in features
        },
    }


def _sets(
    scale: TableScale, chosen: EmbeddingScale, work: TableWork
) -> tuple[dict[str, CondensedSet], dict[str, str]]:
    """The set of each line, and why others could not be made."""
    at, named = Place(scale, Source(name=chosen.dataset), chosen.ipc), dict[str, Made]()
    for name, line in lines().items():
        # The name of the line in the main table.
        label = "datadam, scale 100, no ZCA" if name == "datadam" else name
        named[name] = at.sets(line, label)[0]
    results = work.do("sets", named.values())
    failed = {name: results[made].get("failed", "") for name, made in named.items()}
    sets = {name: work.bench.condensed(made) for name, made in named.items() if not failed[name]}
    return sets, {name: reason for name, reason in failed.items() if reason}


def compare(
    real: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, classes: np.ndarray
) -> dict[str, list[float]]:
    """Of features [N, D] and [M, D] and their classes: `own` and `offset`, with a value a class.

    `own`: share of a class's synthetic images whose nearest real neighbours vote for it. `offset`:
    distance of the means, over the root mean square distance of the real images of the class from
    theirs.
    """
    votes = KNeighborsClassifier(min(_NEIGHBOURS, len(real))).fit(real, labels).predict(synthetic)
    own, offset = [], []
    for c in np.unique(classes):
        theirs, mine = real[labels == c], synthetic[classes == c]
        spread = np.sqrt(((theirs - theirs.mean(0)) ** 2).sum(1).mean())
        own.append(float((votes[classes == c] == c).mean()))
        offset.append(float(np.linalg.norm(mine.mean(0) - theirs.mean(0)) / spread))
    return {"own": own, "offset": offset}


def title(document: dict[str, Any]) -> str:
    """What the table is called."""
    plan = document["plan"]
    place = f"{plan['dataset']}, {plan['ipc']} images per class"
    return f"Synthetic images in the embedding of a ResNet-18: {place}"


def markdown(document: dict[str, Any]) -> list[str]:
    """The two numbers of each set."""
    meaning = _meaning(document)
    return [
        f"# {title(document)}",
        "",
        *tables.markdown(HEADERS, _rows(document)),
        *(line for paragraph in meaning for line in ("", paragraph)),
    ]


def sections(document: dict[str, Any]) -> list[Section]:
    """The two numbers of each set as charts, and as a table."""
    found = []
    names = {"own": "with their own class, %", "offset": "offset of the class mean"}
    for key, name in names.items():
        points = []
        for method, of in document["measures"].items():
            mean, low, high = _of_classes(key, of[key])
            point = {"name": method, "source": "95 % interval", name: mean}
            points.append(point | {"low": low, "high": high})
        found.append(Chart(name.capitalize(), charts.intervals(points, name)))
    table = Table(HEADERS, _rows(document))
    return [Section("The sets", *found, table), Section("To know", *map(Text, _meaning(document)))]


def _rows(document: dict[str, Any]) -> list[list[str]]:
    rows = [
        [name, *_cells("own", of["own"], 0), *_cells("offset", of["offset"], 2)]
        for name, of in document["measures"].items()
    ]
    return rows + [[name, reason, "", "", ""] for name, reason in document["failed"].items()]


def _meaning(document: dict[str, Any]) -> list[str]:
    """What the two numbers are, and of which network."""
    plan = document["plan"]
    return [
        "With their own class: synthetic images whose ten nearest real images are mostly of their "
        "class. Offset: distance from the real mean of the class, in within-class standard "
        "deviations; random images are off by chance. Intervals: over the classes (Student's t), "
        "one set of each method.",
        f"ResNet-18 (batch norm) trained on {plan['trained_on']} real images for {plan['epochs']} "
        f"passes: {100 * document['resnet18_accuracy']:.1f} % of as many test images. Standardised "
        "images, for every method.",
    ]


def draw(folder: Path, title: str, document: dict[str, Any]) -> None:
    """A picture for each set: real images are dots, synthetic ones stars, colours are classes."""
    real, labels = np.array(document["map"]["real"]), np.array(document["labels"]["real"])
    for name in document["measures"]:
        figure, axes = panel(6.4, 5, grid="")
        axes.spines[:].set_visible(True)
        places, classes = np.array(document["map"][name]), np.array(document["labels"][name])
        for c, label in enumerate(document["classes"]):
            colour = f"C{c % 10}"
            axes.scatter(*real[labels == c].T, color=colour, label=label, **_DOTS)
            axes.scatter(*places[classes == c].T, color=colour, **_STARS)
        told = f"{name}: {document['plan']['ipc']} images per class (stars) among real ones"
        axes.set(title=told, xticks=[], yticks=[])
        figure.legend(loc="outside right center", frameon=False, markerscale=2)
        save_figure(figure, folder / f"{title}_{name}.png")


def _cells(key: str, values: list[float], digits: int) -> tuple[str, str]:
    """The mean of the values of the classes and its interval, as two cells."""
    mean, low, high = _of_classes(key, values)
    return f"{mean:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def _of_classes(key: str, values: list[float]) -> tuple[float, float, float]:
    """The mean of the values of the classes, and its interval within what is possible.

    Shares of images with their own class, `own`, are turned into percent.

    >>> [round(one) for one in _of_classes("own", [0.0, 0.0, 0.2])]
    [7, 0, 35]
    """
    factor, most = (100, 100.0) if key == "own" else (1, float("inf"))
    of_classes = Statistic(tuple((factor * value,) for value in values))
    low, high = of_classes.ci95 or (of_classes.mean, of_classes.mean)
    return of_classes.mean, max(low, 0.0), min(high, most)


def _network(
    dataset: Dataset, preprocess: Preprocess, chosen: EmbeddingScale, bench: TableBench
) -> tuple[Network, float]:
    """A ResNet-18 trained on real images, kept in the work folder, and its test accuracy."""
    network = build("resnet18-bn", dataset.shape, len(dataset.classes)).to(bench.place)
    name = f"{dataset.fingerprint}-{chosen.trained_on}-{chosen.epochs}.safetensors"
    path, prepare = bench.folder / "networks" / name, preprocess.to(bench.place).apply
    if not path.exists():
        real = _stratified(dataset.train, chosen.trained_on, "embedding")
        protocol = Protocol(
            epochs=chosen.epochs,
            batch=128,
            lr=0.05,
            schedule="cosine",
            nesterov=True,
            augment=suited("dsa", dataset.name),
        )
        train(network, real.pixels, real.labels, protocol, 0, prepare=prepare)
        save_tensors(path, network.state_dict(), {})
    network.load_state_dict(load_tensors(path)[0])
    network.to(bench.place).eval()
    tested = _stratified(dataset.test, chosen.trained_on, "embedding test")
    return network, accuracy(network, tested.pixels, tested.labels, prepare=prepare)


def _stratified(images: Images, count: int, purpose: str) -> Images:
    """About `count` of the images, equally many of each class."""
    each = max(1, count // len(images.classes))
    members = [images.of_class(c) for c in range(len(images.classes))]
    shuffled = [
        of_c[torch.randperm(len(of_c), generator=generator(0, purpose, c))][:each]
        for c, of_c in enumerate(members)
    ]
    return images.subset(torch.cat(shuffled).sort().values)


@torch.inference_mode()
def _embed(network: Network, images: Tensor, device: torch.device) -> np.ndarray:
    parts = [network.embed(part.to(device)).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts).numpy()
