"""DD-Ranking's scores of sets: the trainings beside `evaluate` that they need, kept with them.

Random real images, as many as the sets have, are trained on in the same way as the sets, and both
again without augmentation. Soft labels are replaced by hard ones for the label-robust score. Unless
its accuracy is known, networks are trained on the whole real set, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from condense.data.images import Dataset
from condense.methods.selection import select
from condense.runs.evaluations import measure
from condense.sets.condensed import CondensedSet
from condense.settings import require
from condense.study.workers import Workers
from condense.training.evaluate import Evaluation
from condense.training.protocol import Protocol
from condense.training.robustness import (
    Robustness,
    augmentation_robust_score,
    label_robust_score,
)
from condense.training.score import Score

WHOLE = Protocol(epochs=20, batch=64, schedule="cosine")
"""How networks are trained on all real images; the augmentation is that of the sets' protocol."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the trainings have in common.

    >>> from condense import load_dataset
    >>> digits = load_dataset("digits")
    >>> quick = Protocol(epochs=2, augment="none")
    >>> bench = Bench(dataset=digits, network="mlp", repeats=2, protocol=quick, seed=0)
    >>> bench.store is None
    True
    """

    dataset: Dataset
    network: str
    repeats: int
    """Networks trained on each set."""
    protocol: Protocol
    """The training that belongs to the sets."""
    seed: int
    workers: Workers = field(default_factory=lambda: Workers(workers=0))
    store: Path | None = None
    """The file that keeps what is measured."""
    quiet: bool = False

    def score(self, sets: Sequence[CondensedSet], **changes: Any) -> Score:
        """The accuracies of networks trained on sets, by the protocol with `changes`."""
        protocol = replace(self.protocol, **changes)
        bench = Evaluation.of(sets, self.dataset, self.network, self.repeats, protocol, self.seed)
        measured = measure(
            bench, [""] * len(sets), workers=self.workers, quiet=self.quiet,
            store=self.store or ":memory:",
        )  # fmt: skip
        return measured.scores[self.network]


def scores(
    sets: Sequence[CondensedSet], bench: Bench, real_accuracy: float | None = None
) -> dict[str, Robustness]:
    """The scores `LRS` and `ARS` of one or more sets of one kind.

    The intervals are over the sets, or over the networks of a single set.

    `real_accuracy` is what networks reach that are trained on all real images, in [0, 1]; unless it
    is given, they are trained by `WHOLE`. Raises what `condense.evaluate` raises.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> few = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=5)
    >>> quick = Protocol(epochs=2, augment="crop")
    >>> bench = Bench(dataset=digits, network="mlp", repeats=2, protocol=quick, seed=0, quiet=True)
    >>> sorted(scores([few], bench, real_accuracy=0.9))
    ['ARS', 'LRS']
    """
    if real_accuracy is not None:
        require("real_accuracy", real_accuracy, 0 <= real_accuracy <= 1, "in [0, 1]")
    of_whole: Score | float
    if real_accuracy is None:
        of_whole = replace(bench, protocol=replace(WHOLE, augment=bench.protocol.augment)).score(
            [_whole(sets[0], bench.dataset)]
        )
    else:
        of_whole = real_accuracy
    chosen = [_random(one, bench.dataset, seed) for seed, one in enumerate(sets)]
    own, random = bench.score(sets), bench.score(chosen)
    hard = bench.score([_hardened(one) for one in sets]) if sets[0].soft else None
    plain = [bench.score(of, augment="none", cutmix=0.0) for of in (sets, chosen)]
    return {
        "LRS": label_robust_score(of_whole, own, random, hard=hard),
        "ARS": augmentation_robust_score(own, random, *plain),
    }


def _random(condensed: CondensedSet, dataset: Dataset, seed: int) -> CondensedSet:
    """As many random real images, under the same transform."""
    return select("random", dataset, condensed.ipc, preprocess=condensed.preprocess, seed=seed)


def _hardened(condensed: CondensedSet) -> CondensedSet:
    return replace(condensed, labels=condensed.class_of())


def _whole(condensed: CondensedSet, dataset: Dataset) -> CondensedSet:
    """All real images as a set, under the transform of another."""
    return replace(
        condensed,
        images=condensed.preprocess.apply(dataset.train.pixels),
        labels=dataset.train.labels,
        formation=1,
        provenance={},
    )
