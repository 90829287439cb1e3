"""What a sampler of Optuna would train next, among the architectures that may be chosen.

Optuna proposes a value for each part of an architecture: for each edge, factor or layer. It is told
of all architectures so far by their places, because their scores are rank averages that move when
others join. Where a proposal may not be chosen or is known, the nearest one stands in for it.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from condense.errors import UserError, unknown
from nas.spaces import space

SAMPLERS = ("TPESampler", "GPSampler", "NSGAIISampler", "RandomSampler")
"""Those of Optuna that choose among categories and need a seed alone; the first by default."""


class Proposals:
    """The proposals of one sampler; the same calls give the same ones.

    >>> proposals = Proposals("convnet720", range(720), "TPESampler", seed=0)
    >>> proposals.next([5, 7]) not in (5, 7)
    True
    """

    def __init__(self, space_name: Any, fits: Collection[int], sampler: str, seed: int) -> None:
        """`sampler` is one of `SAMPLERS`. Raises `UserError` where Optuna is not installed."""
        with _quiet() as self._optuna:
            if sampler not in SAMPLERS:
                raise unknown("sampler of Optuna", sampler, SAMPLERS)
            self._sampler = getattr(self._optuna.samplers, sampler)(seed=seed)
        self._fits = list(fits)
        parts = [space(space_name).architecture(index).parts() for index in self._fits]
        names = list(parts[0])
        self._values = {name: sorted({one[name] for one in parts}) for name in names}
        self._places = np.array(
            [[self._values[name].index(one[name]) for name in names] for one in parts]
        )

    def next(self, best_first: Sequence[int]) -> int:
        """An architecture that is not among `best_first`, those so far, of which one must be left.

        Of several that are equally near to the proposal, it is the first that may be chosen.
        """
        distributions = {
            name: self._optuna.distributions.CategoricalDistribution(values)
            for name, values in self._values.items()
        }
        rows = {index: row for row, index in enumerate(self._fits)}
        with _quiet():
            study = self._optuna.create_study(sampler=self._sampler)
            for place, index in enumerate(best_first):
                chosen = zip(self._values.items(), self._places[rows[index]], strict=True)
                params = {name: values[at] for (name, values), at in chosen}
                study.add_trial(
                    self._optuna.trial.create_trial(
                        params=params, distributions=distributions, value=float(place)
                    )
                )
            proposed = study.ask(distributions).params
        wanted = [values.index(proposed[name]) for name, values in self._values.items()]
        distances = (self._places != np.array(wanted)).sum(axis=1).astype(float)
        distances[[rows[index] for index in best_first]] = np.inf
        return self._fits[int(distances.argmin())]


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna, which says nothing while inside."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "the strategy optuna needs Optuna, which is not installed: pip install "
            "condensekit[optuna]"
        ) from None
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(level)
