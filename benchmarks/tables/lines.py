"""The lines of the tables, and how much is done for each at every scale."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.tables.bench import Trained
from condense import Protocol, Recipe, recipe_for
from condense.data.catalogue import Source
from condense.data.folders import IMAGENET_SUBSETS
from condense.methods import METHODS
from condense.methods.recipes import published_as
from condense.methods.selection import SELECTIONS
from condense.runs.shelf import Made, Selection
from condense.training.protocol import protocol_for

DEFAULT = "default"
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        DEFAULT: {"steps": 2, "real_batch": 4, "network": "convnet-d2-w8"},
        "official-code": {"network": "convnet-d2-w8-batch"},
        "best": {"pool_steps": 2},
        "cafe": {"queue": 2, "query": 4, "most_passes": 2},
        **{method: {"outer_loops": 2, "inner_loops": 1} for method in ("dc", "dsa")},
        "mtt": {"student_steps": 2, "max_start": 1, "expert_passes": 1, "preprocess": "standard"},
    },
    "cpu": {
        DEFAULT: {"steps": 200, "real_batch": 64, "network": "convnet-w64"},
        "official-code": {"network": "convnet-w64-batch"},
        "best": {"pool": 3, "pool_steps": 300},
        "cafe": {"steps": 100, "real_batch": 32, "network": "convnet-w32", "init": "random"}
        | {"queue": 3, "query": 20, "most_passes": 6},
        "gmmn": {"steps": 400, "real_batch": 32, "width": 8, "lr": 2e-3},
        "cgan": {"steps": 1000, "real_batch": 10, "width": 8},
        "vae": {"steps": 1500, "real_batch": 10, "width": 8, "lr": 2e-3},
        "kip": {"steps": 2000, "real_batch": 50},
        "ld": {"steps": 400, "real_batch": 25, "network": "convnet-w32"}
        | {"lr": 0.01, "inner_batch": None},
        "ablation": {"steps": 100, "network": "convnet-w32"},
        # These four were sized by their cost, about a minute a set, and tried on 5,000 held-out
        # training images. One matching a network: the published loops would take minutes a step. Of
        # few steps each has to move the pixels as far as their many.
        **{
            method: {"steps": 60, "real_batch": 16, "init": "random", "outer_loops": 1}
            for method in ("dc", "dsa")
        },
        **{f"{method} IPC 1": {"lr": 5.0} for method in ("dc", "dsa")},
        **{f"{method} IPC 10": {"lr": 30.0} for method in ("dc", "dsa")},
        "dd": {"steps": 60, "real_batch": 16, "init": "random", "lr": 0.02, "passes": 1}
        | {"first_rate": 0.02},
        # Two experts of two passes: the expert is caught up with within its second.
        "mtt": {"steps": 100, "network": "convnet-w32", "preprocess": "standard", "lr": 300.0}
        | {"student_steps": 10, "max_start": 2, "expert_passes": 1}
        | {"first_rate": 0.05, "rate_lr": 3e-5, "batch": 20},
    },
    "full": {},
}
"""Changes of a recipe: by default, of a method, of it at an IPC, of a recipe, of a line.

The last one counts."""

POOLS = {
    "smoke": {"pool": 1, "pool_steps": 2},
    "cpu": {"pool": 2, "pool_steps": 400},
    "full": {"pool": 100, "pool_steps": 20_000},
}
"""The partly trained networks of the ablation by training stage; the paper trains 1,000."""
SIZES = {"digits": 8, "tinyimagenet": 64, "imagenet-1k": 64, **dict.fromkeys(IMAGENET_SUBSETS, 128)}
"""Side in pixels of a dataset's images, where not 32; recipes depend on it from 64 on."""


@dataclass(frozen=True, slots=True)
class Line:
    """A recipe with some changes."""

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> "Line":
        """The line with more changes."""
        return Line(self.recipe, self.changes | changes)


SCALE_100 = Line("paper", {"loss_scale": 100.0})
"""The paper's DataDAM with steps of a useful size: what most tables are about."""
Lines = dict[str, Line | str]
"""Row -> a recipe, or the preprocessing of a selection of real images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableScale:
    """How much is done.

    The full scale is the papers' own: every recipe as published, five sets, 20 networks each.
    """

    name: str
    seeds: int
    repeats: int
    epochs: int
    network: str
    """Trained on every set, whatever it was matched under, unless a table says otherwise."""
    feature_epochs: int
    """Passes over the real images for the network behind herding, k-center and forgetting."""


SCALES = {
    "smoke": TableScale(
        name="smoke", seeds=2, repeats=1, epochs=2, network="convnet-d2-w8", feature_epochs=2
    ),
    "cpu": TableScale(
        name="cpu", seeds=4, repeats=1, epochs=200, network="convnet-w64", feature_epochs=2
    ),
    "full": TableScale(
        name="full", seeds=5, repeats=20, epochs=1001, network="convnet", feature_epochs=50
    ),
}


def main_lines(dataset: str) -> Lines:
    """The rows of the paper's first table, and what must stand beside them to compare them.

    A text is a selection; under `zca`, the same images whitened. Every method is there as its
    authors published it. `best` stores mosaics: what it starts from, of more real images than the
    others have, is a line to compare it with, as are mosaics alone.
    """
    lines: Lines = dict.fromkeys(SELECTIONS, "standard")
    lines |= {method: Line(published_as(method)) for method in METHODS}
    lines["datadam, scale 100"] = SCALE_100
    lines |= {name: Line(name) for name in ("official-code", "best")}
    lines["best, mosaics alone"] = Line("best", {"pool": 0, "calibration": 0.0})
    lines["best, soft labels"] = Line("best", {"soft_labels": True})
    lines["best, unlearned"] = Line("best", {"steps": 0, "pool": 0, "calibration": 0.0})
    if dataset in ("cifar10", "cifar100"):
        lines["random, ZCA"] = "zca"
        lines["dm, ZCA"] = Line("dm", {"preprocess": "zca"})
        lines["datadam, scale 100, no ZCA"] = SCALE_100.but(preprocess="standard")
    return lines


def method_lines() -> dict[str, Line]:
    """Every method as published, DataDAM with the loss scale that moves its pixels; standardised.

    That is for comparisons in which all see the same images.
    """
    lines = {method: Line(published_as(method)) for method in METHODS} | {"datadam": SCALE_100}
    return {method: line.but(preprocess="standard") for method, line in lines.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """What a line is measured on: a scale, a dataset and a number of images per class."""

    scale: TableScale
    source: Source
    ipc: int

    def recipe(self, line: Line, name: str) -> Recipe:
        """The recipe of a line, cut down to the scale."""
        size = self.source.resolution or SIZES.get(self.source.name, 32)
        published = recipe_for(line.recipe, self.source.name, (3, size, size), self.ipc)
        method, changes = published.method.name, dict[str, Any]()
        for key in (DEFAULT, method, f"{method} IPC {self.ipc}", line.recipe, name):
            changes |= SETTINGS[self.scale.name].get(key, {})
        return published.override(changes | line.changes)

    def sets(self, line: Line | str, name: str) -> tuple[Made, ...]:
        """The sets of a line, one a seed."""
        how: Recipe | Selection
        if isinstance(line, Line):
            how = self.recipe(line, name)
        else:
            how = Selection(
                method=name.split(",")[0],
                preprocess=line,
                network=self.scale.network,
                feature_epochs=self.scale.feature_epochs,
            )
        seeds = range(self.scale.seeds)
        return tuple(Made(source=self.source, ipc=self.ipc, seed=seed, how=how) for seed in seeds)

    @property
    def trained(self) -> Trained:
        """How every set is judged: the training of DC, DSA and DM with the scale's passes."""
        augment = protocol_for("dm", self.source.name).augment
        protocol = Protocol(epochs=self.scale.epochs, augment=augment)
        return Trained(network=self.scale.network, protocol=protocol, repeats=self.scale.repeats)
