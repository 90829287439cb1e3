"""`condensekit evaluate`: train networks on sets and test them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from condense.command.shared import Data, Device, Printed
from condense.options import Command, Heading, Part
from condense.settings import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """How many networks are trained on each set, and by which protocol.

    >>> Trials().protocol
    'dm'
    """

    network: tuple[str, ...] = ("convnet",)
    """Network to train; may be repeated."""
    repeats: int = 20
    """Networks trained on each set."""
    seed: int = 0
    """Every random number follows from it."""
    protocol: str = "dm"
    """`dm` (1,000 epochs, batch 256), `datadam-code` (1,800, 64), `kip` (dm's, squared error) or
    `mtt` (dm's, the set's rate). The flags below change single settings of it."""


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
        "machine": Part(kind=Device, heading=Heading.WHERE),
        "output": Part(kind=Printed, heading=Heading.OUTPUT),
    },
)
@click.argument("runs", nargs=-1, required=True, type=click.Path())
def evaluate(
    runs: tuple[str, ...],
    data: Data,
    trials: Trials,
    changes: dict[str, Any],
    machine: Device,
    output: Printed,
) -> None:
    """Train networks on condensed sets and measure them on the real test set.

    RUNS are run folders or set files. Several are sets of one kind (say, five seeds): the interval
    is then over the sets.
    """
    from condense.progress import progress
    from condense.runs.shelf import source_of
    from condense.sets.condensed import CondensedSet
    from condense.training.evaluate import evaluate as measure
    from condense.training.train import protocol_for

    sets = [CondensedSet.load(path) for path in runs]
    data_dir = None if data.data_dir is None else str(data.data_dir)
    source = data.source() if data.dataset else source_of(Path(runs[0]), data_dir)
    real = source.load(download=data.download)
    protocol = dataclasses.replace(protocol_for(trials.protocol, real.name), **changes)
    total = len(sets) * len(trials.network) * trials.repeats
    with progress("evaluate", total, quiet=output.json) as report:
        scores = measure(
            sets, real, trials.network, repeats=trials.repeats, protocol=protocol,
            seed=trials.seed, device=machine.device, progress=report,
        )  # fmt: skip
    kind = "held-out training" if source.hold_out else "test"
    tested = f"{len(real.test)} {kind} images of {real.name}"
    if output.json:
        document = {
            "networks": {name: score.to_json() for name, score in scores.items()},
            "sets": list(runs),
            "protocol": plain(protocol),
            "seed": trials.seed,
            "tested_on": tested,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(
        f"accuracy on {tested}; {len(sets)} set(s) x {trials.repeats} network(s), "
        f"{protocol.epochs} epochs"
    )
    for name, score in scores.items():
        low, high = (100 * bound for bound in score.ci95)
        click.echo(
            f"{name:<40} {100 * score.mean:6.2f} %  std {100 * score.std:.2f}  "
            f"95 % interval {low:.2f} to {high:.2f}"
        )
