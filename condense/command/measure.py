"""`condensekit evaluate`: train networks on sets and test them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from condense.command.advice import of_networks, of_sets, warn
from condense.command.shared import Data, Printed, score_text
from condense.options import PATH, Command, Heading, Part
from condense.settings import plain, require
from condense.words import counted

if TYPE_CHECKING:
    from condense.data.catalogue import Source
    from condense.sets.condensed import CondensedSet
    from condense.study.workers import Workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """How many networks are trained on each set, and by which protocol.

    >>> Trials().protocol
    'dm'
    """

    network: tuple[str, ...] = ("convnet",)
    """Network to train; may be repeated. Also timm/NAME, torchvision/NAME, or FILE.py:FUNCTION for
    your own: a function of the image shape and the number of classes."""
    repeats: int = 20
    """Networks trained on each set."""
    seed: int = 0
    """Every random number follows from it."""
    protocol: str = "dm"
    """`dm` (1,001 passes, batch 256), `dc` (301, 256, no augmentation), `datadam-code` (1,801, 64),
    `kip` (dm's, squared error), `mtt` (dm's, the set's rate), `idc` (1,500, 64, CutMix) or `ncfm`
    (2,000, 64, CutMix, AdamW). The flags below change single settings of it; `--epochs` counts the
    passes that are made."""
    scores: bool = False
    """Also tell DD-Ranking's scores LRS and ARS (of the first network), in [0, 1]: what a set is
    worth beside random real images, apart from labels and augmentation. Needs more trainings."""
    real_accuracy: float | None = None
    """For the scores: what networks trained on all real images reach, in [0, 1]. Unless given, they
    are trained, for 20 passes."""

    def __post_init__(self) -> None:
        value = self.real_accuracy  # it is used last, and refused before anything is trained
        require("real_accuracy", value, value is None or 0 <= value <= 1, "in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Session(Printed):
    """How long this session lasts, and where results are kept.

    >>> Session(minutes=30).store is None
    True
    """

    minutes: float | None = None
    """Stop after that long; what is finished is kept, and the same command goes on."""
    store: Path | None = None
    """SQLite file that keeps what is measured.  [default: evaluations.sqlite in each run folder]"""


@click.command(
    cls=Command,
    parts={
        "data": Part(kind=Data, heading=Heading.WHAT),
        "trials": Part(
            kind=Trials,
            heading=Heading.HOW_MUCH,
            elsewhere={"network": Heading.TRAINED, "protocol": Heading.TRAINED},
        ),
        "changes": Part(
            kind="condense.training.train:Protocol", heading=Heading.TRAINED, changes=True
        ),
        "workers": Part(
            kind="condense.study.workers:Workers", heading=Heading.WHERE, defaults={"workers": 0}
        ),
        "session": Part(kind=Session, heading=Heading.OUTPUT, elsewhere={"minutes": Heading.WHERE}),
    },
)
@click.argument("runs", nargs=-1, required=True, type=PATH)
def evaluate(
    runs: tuple[Path, ...],
    data: Data,
    trials: Trials,
    changes: dict[str, Any],
    workers: "Workers",
    session: Session,
) -> None:
    """Train networks on condensed sets and measure them on the real test set.

    RUNS are run folders, set files, published sets, or what `export` wrote. Several are sets of one
    kind (say, five seeds): the interval is then over the sets.

    Each accuracy is kept in the run folder as soon as its network is tested, and its report.html
    shows all of them. Stopped or killed, the same command goes on; with more --repeats it trains
    only the new networks. A set outside a run folder, such as a published one, keeps its accuracies
    only with --store.
    """
    from condense.networks.factories import adopt_named
    from condense.runs import scored
    from condense.runs.evaluations import folder_of, measure, store_of
    from condense.runs.report import write_report
    from condense.runs.shelf import source_of
    from condense.sets.exchange import read_set
    from condense.training.evaluate import Evaluation
    from condense.training.protocol import protocol_for
    from condense.writing import in_use

    for name in trials.network:
        adopt_named(name)
    folders = dict.fromkeys(folder for run in runs if (folder := folder_of(run)) is not None)
    for folder in folders:
        click.get_current_context().with_resource(in_use(folder))
    sets = [read_set(path) for path in runs]
    data_dir = None if data.data_dir is None else str(data.data_dir)
    if data.dataset is None:
        source = _changed(source_of(runs[0], data_dir), data)
    else:
        source = _resized(data.source(), sets[0])
    real = source.load(download=data.download)
    protocol = dataclasses.replace(protocol_for(trials.protocol, real.name), **changes)
    bench = Evaluation.of(sets, real, trials.network, trials.repeats, protocol, trials.seed)
    warn([*of_networks(sets, trials.network), *of_sets(sets)])
    measured = measure(bench, runs, workers=workers, minutes=session.minutes, store=session.store)
    robust = {}
    if trials.scores and not measured.left:
        robust = scored.scores(
            sets,
            scored.Bench(
                dataset=real, network=trials.network[0], repeats=trials.repeats, protocol=protocol,
                seed=trials.seed, workers=workers,
                store=session.store or store_of(runs[0]),
            ),
            trials.real_accuracy,
        )  # fmt: skip
    for folder in folders:
        write_report(folder)
    if session.json:
        document = {
            "scores": {name: one.to_json() for name, one in robust.items()},
            "networks": {name: score.to_json() for name, score in measured.scores.items()},
            "sets": list(map(str, runs)),
            "protocol": plain(protocol),
            "seed": trials.seed,
            "tested_on": bench.tested_on,
            "done": measured.done,
            "total": measured.total,
        }
        click.echo(json.dumps(document, indent=2))
        return
    changed = f", changed: {', '.join(changes)}" if changes else ""
    click.echo(
        f"accuracy on {bench.tested_on}; {counted(len(sets), 'set')} x "
        f"{counted(trials.repeats, 'network')}, {counted(protocol.epochs, 'epoch')}; "
        f"protocol {trials.protocol}{changed}"
    )
    for name, score in measured.scores.items():
        click.echo(f"{name:<40} {score_text(score)}")
        if len(runs) > 1:
            for run, own in zip(runs, score.per_set, strict=True):
                click.echo(f"  {run!s:<38} {100 * fmean(own):6.2f} %")
    for name, one in robust.items():
        low, high = one.ci95
        click.echo(f"{name:<40} {one.value:.3f}  95 % interval {low:.3f} to {high:.3f}")
    if measured.left:
        click.echo(
            f"note: still to be trained: {measured.left} of "
            f"{counted(measured.total, 'network')}; the scores are over those that "
            f"are finished on every set; {measured.how_to_go_on}"
        )


def _changed(source: "Source", data: Data) -> "Source":
    """The recorded dataset, with what was given of it beside its name."""
    given, left = dataclasses.asdict(data), dataclasses.asdict(Data())
    names = [name for name in ("resolution", "hold_out") if given[name] != left[name]]
    return dataclasses.replace(source, **{name: given[name] for name in names})


def _resized(source: "Source", condensed: "CondensedSet") -> "Source":
    """The dataset at the size of the set, unless another one is asked for or it has its own."""
    from condense.data.names import RESIZED

    if source.resolution or not source.name.startswith(RESIZED):
        return source
    return dataclasses.replace(source, resolution=condensed.shape[-1])
