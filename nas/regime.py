"""How the candidates of a search are trained on a proxy, and how they are scored afterwards."""

from dataclasses import dataclass, field, fields

from condense.errors import unknown
from condense.settings import require
from condense.training.protocol import Protocol

STATISTICS = {
    "proxy": "BatchNorm's averages are taken anew from the proxy's images after training",
    "running": "BatchNorm's averages are those that training left",
    "batch": "BatchNorm uses the statistics of the held-out images, 250 at a time",
}
"""The statistics that BatchNorm may use on the held-out images, by name."""


_LARGEST = 8192
"""The largest size of a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """How candidates are trained on a proxy and scored afterwards.

    `docs/nas.md` describes the study behind the defaults of each space. Raises `UserError` for
    unknown statistics, and for a size below 1.

    >>> Regime(protocol=Protocol(epochs=20), sizes={"cells": 1}).text().split()[-2:]
    ['statistics=running', 'cells=1']
    """

    protocol: Protocol
    """How they are trained."""
    statistics: str = "running"
    """What BatchNorm uses on the held-out images, one of `STATISTICS`."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The sizes of the networks, as far as the space has any: the cells of NAS-Bench-201."""

    def __post_init__(self) -> None:
        if self.statistics not in STATISTICS:
            raise unknown("batch-norm statistics", self.statistics, STATISTICS)
        for name, size in self.sizes.items():
            require(name, size, 1 <= size <= _LARGEST, f"from 1 to {_LARGEST}")

    def text(self) -> str:
        """Every hyperparameter in one line, as the store of trials records it."""
        values = {f.name: getattr(self.protocol, f.name) for f in fields(self.protocol)}
        values |= {"statistics": self.statistics, **self.sizes}
        return " ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
        )
