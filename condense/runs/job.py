"""The folder of a run: what is in it, who may write to it, and the checkpoints it goes on from.

set.safetensors      the condensed set, at the end
start.safetensors    the starting images; holds the fitted preprocessing, so that resuming never fits again
checkpoints/         the last two states of the engine (of each rank, where several share a run)
run.json             everything resolved: dataset, recipe, seed, device, versions, timings
grid.png             the set as a picture
tensorboard/         loss curves and image grids
"""

import dataclasses
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.data.catalogue import Source
from condense.errors import UserError
from condense.files import load_tensors, read_json, save_tensors, write_json
from condense.methods import recipes
from condense.methods.base import Recipe
from condense.runs.ranks import Ranks
from condense.sets.provenance import version
from condense.settings import read_value, within
from condense.study.record import differences

_KEEP = 2
"""Checkpoints kept: the last, and the one before it should the last be damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a run folder is about: what `run.json` records and a resumed run goes on with."""

    source: Source
    fingerprint: str
    ipc: int
    seed: int
    recipe: Recipe
    device: str
    chunk: int | None
    checkpoint_every: int
    storage: str = "float32"

    def to_json(self) -> dict[str, Any]:
        """As written in `run.json`."""
        return dataclasses.asdict(self) | {"recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, fields: Any) -> "Job":
        """What `to_json` described; a `UserError` names the field that is not as it should be."""
        own = read_value(dict[str, Any], fields, "job")
        recipe = recipes.from_json(own.get("recipe"))
        return read_value(cls, own | {"recipe": recipe}, "job")


def load_job(folder: Path) -> Job:
    """The job that `run.json` in `folder` records."""
    content = read_json(folder / "run.json")
    with within(f"{folder / 'run.json'} is not of this version of condensekit"):
        return Job.from_json(read_value(dict[str, Any], content, "run.json").get("job"))


def check_free(folder: Path, job: Job) -> None:
    """Raise a `UserError` if `folder` holds a run already, this job's or another's."""
    if (folder / "run.json").exists():
        if changed := differences(job.to_json(), load_job(folder).to_json()):
            raise UserError(
                f"{folder} holds a run with other settings ({changed}): choose another --out"
            )
        raise UserError(f"{folder} already holds this run: go on with `condense --resume {folder}`")


def record(folder: Path, job: Job, **progress: Any) -> None:
    """Write `run.json`: the job, what it runs on, and how far it is."""
    environment = {
        "condensekit": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if job.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    told = {
        "source": dataclasses.asdict(job.source),
        "job": job.to_json(),
        "environment": environment,
        "progress": progress,
    }
    write_json(folder / "run.json", told)


class Checkpoints:
    """The states of one rank's engine in a run folder. A team of another size starts again: its classes are shared otherwise."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder = folder / "checkpoints"
        if ranks.count > 1:
            self._folder = self._folder / f"rank-{ranks.rank}-of-{ranks.count}"

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Keep the state after `step` steps, and drop all but the last two."""
        save_tensors(self._folder / f"step-{step:08d}.safetensors", state, {"step": step})
        for old in self.newest_first()[_KEEP:]:
            old.unlink()

    def newest_first(self) -> list[Path]:
        """The files, the last first."""
        return sorted(self._folder.glob("step-*.safetensors"), reverse=True)

    def last_good(self) -> tuple[dict[str, Tensor], int] | None:
        """The last state that is whole, and the steps done in it; a damaged one is named and passed over."""
        for path in self.newest_first():
            try:
                state, header = load_tensors(path)
            except UserError as error:
                print(f"{error}; going on from the checkpoint before it", file=sys.stderr)
                continue
            return state, int(header["step"])
        return None
