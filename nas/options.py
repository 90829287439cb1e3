"""The options of the `nas` commands: dataclasses whose fields are the flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.command.shared import pairs
from condense.errors import UserError

if TYPE_CHECKING:
    from nas.regime import Regime
    from nas.sampling import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The space that architectures are from.

    >>> Space(space="convnet720").name()
    'convnet720'
    """

    space: str | None = None
    """`nasbench201` (15,625 cells), `convnet720` (the 720 ConvNets) or `natssize` (32,768 widths of
    the layers of one cell)."""

    def name(self) -> str:
        """Its name, once it is known to be one; a `UserError` where it is missing or unknown."""
        from nas.spaces import SPACES, space

        if self.space is None:
            raise UserError(f"--space is missing: {' or '.join(sorted(SPACES))}")
        space(self.space)
        return self.space


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors(Space):
    """The space that architectures are from, and the part of convnet720.

    >>> Factors(depth="1,2", pooling="none").only()
    {'depth': ['1', '2'], 'pool': ['none']}
    """

    depth: str | None = None
    """Only ConvNets of these depths, such as 1,2 where images are small."""
    width: str | None = None
    """Only ConvNets of these widths, such as 32,64."""
    activation: str | None = None
    """Only ConvNets with these activations: sigmoid, relu, leakyrelu."""
    norm: str | None = None
    """Only ConvNets with these normalisations: none, batch, layer, instance, group."""
    pooling: str | None = None
    """Only ConvNets with these poolings: none, max, avg."""

    def only(self) -> dict[str, list[str]]:
        """The values of each factor that is restricted, by the name that the space has for it."""
        given = {
            "depth": self.depth,
            "width": self.width,
            "activation": self.activation,
            "norm": self.norm,
            "pool": self.pooling,
        }
        return {name: text.split(",") for name, text in given.items() if text is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainings(Factors):
    """Which architectures are trained, how often, and how.

    >>> Trainings(space="nasbench201", set=("lr=0.1",)).seeds
    3
    """

    sample: str | None = None
    """Architectures: a number, 0 for all; top20:NUMBER for so many of the best 20 % of the
    reference; stratified:NUMBER for one of each of its NUMBER parts, from the best to the worst.
    [default: 100 of nasbench201 and natssize, 144 of convnet720]"""
    indices: Path | None = None
    """Text file of indices or names, one a line, in place of --sample."""
    seeds: int = 3
    """Trainings of each architecture on each proxy; scores are means."""
    seed: int = 0
    """Every random number follows from it."""
    held_out: int | None = None
    """Training images set apart to score by.  [default: 1000, or none where only training losses
    and free scores rank]"""
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

    def chosen(self) -> "Sample":
        """Which architectures: the sample, or what the file of indices names."""
        from nas.sampling import read_indices

        if self.indices is None:
            return self.sample
        if self.sample is not None:
            raise UserError("--sample and --indices are two ways to choose: give one")
        return read_indices(self.indices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What architectures are trained on, and what ranks them.

    >>> Judged().proxy
    ('random',)
    """

    proxy: tuple[str, ...] = ("random",)
    """What to train on: a condensed set's path, random[:IPC], early-stop[:STEPS] or whole[:IMAGES];
    may be repeated. Without a number: as large as the first condensed set, else 10 images per
    class. `random:10@3` is another draw; draws, and what is named ARM=PROXY, are averaged."""
    by: str | None = None
    """Column that ranks, such as 'random summed_loss', or several joined by ' + ', whose ranks are
    averaged.  [default: the first proxy's; docs/nas.md]"""
    reference: Path | None = None
    """Table of true accuracies to check the ranking by.  [default: SPACE.csv.gz in --data-dir, if
    it is there]"""
    truth: str | None = None
    """Column of that table, such as cifar100_test.  [default: the dataset's]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """How many real images make the truth.

    >>> Truth().images is None
    True
    """

    images: int | None = None
    """Real training images, stratified.  [default: all that are not held out]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much a search may train, and how it chooses.

    >>> Budget().budget
    50
    """

    budget: int = 50
    """Trainings that each strategy may make on each proxy."""
    strategy: tuple[str, ...] = ("random", "evolution", "halving", "free")
    """How architectures are chosen: random, evolution, halving, free, which trains none, optuna
    (its TPE sampler) or optuna:SAMPLER; may be repeated."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """Where the table of a benchmark goes, and whether the file it is made of may be loaded.

    >>> Conversion().trust_pickle
    False
    """

    trust_pickle: bool = False
    """Load the file, a pickle: it can run any code. Only if you trust its source."""
    out: Path = Path("nasbench201.csv.gz")
    """Table to write."""
    force: bool = False
    """Replace the file `--out` if it is there."""
