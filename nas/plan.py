"""What a search is, in full: the record that `search.json` keeps, and the defaults of each space."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.errors import UserError, unknown
from condense.files import read_json, write_json
from condense.sets.provenance import version
from condense.settings import plain, read_value, replaced, within
from condense.training.train import Protocol
from nas.proxies import FREE
from nas.reference import Reference, load
from nas.spaces import convnet720 as convnet_space
from nas.spaces import nasbench201, space
from nas.training import Keys, Regime, Task

REGIMES = {
    convnet_space.NAME: Regime(protocol=Protocol(epochs=200)),
    nasbench201.NAME: Regime(
        protocol=Protocol(
            epochs=20, batch=25, lr=0.05, augment="none", schedule="cosine", nesterov=True
        )
    ),
}
"""How the candidates of a space are trained on a proxy, unless told otherwise (`docs/nas.md` has the study behind it)."""
REFERENCE_REGIMES = {
    convnet_space.NAME: Regime(protocol=Protocol(epochs=20)),
    nasbench201.NAME: Regime(
        protocol=Protocol(epochs=12, lr=0.1, augment="flip_crop", schedule="cosine", nesterov=True)
    ),
}
"""How they are trained on real images for a reference."""
SAMPLES = {convnet_space.NAME: 144, nasbench201.NAME: 100}
SCORE = {convnet_space.NAME: "accuracy", nasbench201.NAME: "summed_loss"}
"""What ranks, unless told otherwise: the paper's choice, and the study's."""
HELD_OUT = 5000
FILE = "search.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is: what `search.json` records and a resumed search goes on with."""

    space: str
    source: Source
    fingerprint: str
    proxies: tuple[str, ...]
    """As given: see `nas.sets`."""
    indices: tuple[int, ...]
    seeds: int
    regime: Regime
    held_out: int
    """Training images to score by."""
    num_classes: int
    seen: tuple[str, ...] = ()
    """Proxies that were made from images held out to score by."""
    by: str = ""
    """The column that ranks; none for a reference run, whose networks are tested instead."""
    reference: str | None = None
    store: str | None = None
    recipes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the trainings are called (`nas.training.Keys`)."""

    @property
    def keys(self) -> Keys:
        """What the trainings are called."""
        return Keys(self.space, self.recipes)

    @property
    def ranks(self) -> bool:
        """Whether it is a search, not a reference run."""
        return bool(self.by)

    def tasks(self) -> list[Task]:
        """Every training, those of the first seed first: a search broken off has then seen most candidates."""
        names = self.keys.proxies
        free = [] if not self.ranks else [Task(0, index, FREE) for index in self.indices]
        return free + [
            Task(seed, index, name)
            for seed in range(self.seeds)
            for index in self.indices
            for name in names
        ]

    @classmethod
    def from_json(cls, fields: Any) -> "Plan":
        """What `plain` described; a `UserError` names the field that is not as it should be."""
        return read_value(cls, fields, "plan")


def change(regime: Regime, **changes: Any) -> Regime:
    """`regime` with some fields of it, or of its protocol, changed: `change(regime, epochs=20, cells=1)`; text is read."""
    own = {field.name for field in dataclasses.fields(Regime)} - {"protocol"}
    inner = {field.name for field in dataclasses.fields(Protocol)}
    for name in changes:
        if name not in own | inner:
            raise unknown("setting of a regime:", name, sorted(own | inner))
    protocol = replaced(
        regime.protocol, {name: value for name, value in changes.items() if name in inner}
    )
    outer = replaced(regime, {name: value for name, value in changes.items() if name in own})
    return dataclasses.replace(outer, protocol=protocol)


def find_reference(
    space_name: str, dataset: str, path: str | Path | None, data_dir: str | None
) -> Reference | None:
    """The reference at `path`, which must have the dataset; else one named after the space in the data folder, if it has it."""
    if path is not None:
        return load(path, space_name)
    for name in (f"{space_name}.csv.gz", f"{space_name}.csv"):
        if (there := Path(data_dir or "data") / name).exists():
            found = load(there, space_name)
            return found if f"{dataset}_test" in found.columns else None
    return None


def record(folder: Path, plan: Plan, **how_far: int) -> None:
    """Write `search.json`: the plan, and how far it is."""
    write_json(
        folder / FILE,
        {"condensekit": version(), "plan": plain(plan), "progress": how_far},
    )


def load_plan(folder: Path) -> Plan:
    """The plan that `search.json` in `folder` records."""
    if not (folder / FILE).exists():
        raise UserError(
            f"{folder} holds no search (no {FILE}): start one with `nas --out {folder}`"
        )
    content = read_json(folder / FILE)
    with within(f"{folder / FILE} is not of this version of condensekit"):
        return Plan.from_json(read_value(dict[str, Any], content, FILE).get("plan"))


def candidates(space_name: str, sample: int | Sequence[int] | None, seed: int) -> tuple[int, ...]:
    """The indices of a sample: of the default size for None, all for 0, those listed; stratified in convnet720."""
    module = space(space_name)
    if isinstance(sample, Sequence):
        return tuple(sorted({module.architecture(index).index for index in sample}))
    count = SAMPLES[space_name] if sample is None else sample or None
    drawn = (
        module.sample(count, seed, stratified=True)
        if module is convnet_space
        else module.sample(count, seed)
    )
    return tuple(drawn)
