"""What a search is, in full: the record that `search.json` keeps, and the defaults of each space."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.errors import unknown
from condense.sets.provenance import version
from condense.settings import plain, read_text, read_value, replaced, within
from condense.study.record import Record
from condense.training.train import Protocol
from nas.proxies import FREE
from nas.reference import Reference, load
from nas.regime import Regime
from nas.spaces import space
from nas.training import Keys, SearchTask

HELD_OUT = 5000
FILE = "search.json"


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
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

    def tasks(self) -> list[SearchTask]:
        """Every training, those of the first seed first: a search broken off has then seen most candidates."""
        names = self.keys.proxies
        free = [] if not self.ranks else [SearchTask(0, index, FREE) for index in self.indices]
        return free + [
            SearchTask(seed, index, name)
            for seed in range(self.seeds)
            for index in self.indices
            for name in names
        ]

    @classmethod
    def from_json(cls, fields: Any) -> "SearchPlan":
        """What `plain` described; a `UserError` names the field that is not as it should be."""
        return read_value(cls, fields, "plan")


def change(regime: Regime, **changes: Any) -> Regime:
    """`regime` with some of its settings changed, or of its protocol's, or sizes; text is read.

    >>> change(Regime(protocol=Protocol(), sizes={"cells": 5}), epochs="20", cells=1).sizes
    {'cells': 1}
    """
    outer = {"statistics"}
    inner = {field.name for field in dataclasses.fields(Protocol)}
    for name in changes:
        if name not in outer | inner | regime.sizes.keys():
            known = sorted(outer | inner | regime.sizes.keys())
            raise unknown("setting of a regime:", name, known)

    def among(names: Collection[str]) -> dict[str, Any]:
        return {name: value for name, value in changes.items() if name in names}

    sizes = {
        name: (read_text if isinstance(value, str) else read_value)(int, value, name)
        for name, value in among(regime.sizes).items()
    }
    return dataclasses.replace(
        replaced(regime, among(outer)),
        protocol=replaced(regime.protocol, among(inner)),
        sizes={**regime.sizes, **sizes},
    )


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


def record_of(folder: Path) -> Record:
    """The `search.json` of a folder."""
    return Record(folder, FILE, "search", "nas")


def write_plan(folder: Path, plan: SearchPlan, **how_far: int) -> None:
    """Write `search.json`: the plan, and how far it is."""
    content = {"condensekit": version(), "plan": plain(plan), "progress": how_far}
    record_of(folder).write(content)


def load_plan(folder: Path) -> SearchPlan:
    """The plan that `search.json` in `folder` records."""
    record = record_of(folder)
    content = record.read()
    with within(f"{record.path} is not of this version of condensekit"):
        return SearchPlan.from_json(read_value(dict[str, Any], content, FILE).get("plan"))


def candidates(space_name: str, sample: int | Sequence[int] | None, seed: int) -> tuple[int, ...]:
    """The indices of a sample: of the default size for None, all for 0, those listed; stratified in convnet720."""
    module = space(space_name)
    if isinstance(sample, Sequence):
        return tuple(sorted({module.architecture(index).index for index in sample}))
    count = module.SAMPLE if sample is None else sample or None
    return tuple(module.sample(count, seed))
