"""The folder of a run: the files in it, and the checkpoints from which a run continues.

set.safetensors      the condensed set, once the run is finished
start.safetensors    the starting images and the fitted preprocessing, which a resumed run reuses
checkpoints/         the last two states of the engine, for each rank if several share a run
zca-*.safetensors    a large transform, which the two sets above share
run.json             all settings of the run (dataset, recipe, seed, device), versions and timings
grid.png             the set as a picture
report.html          all of it to look at
history.json         losses and times of steps, and frames/ the images at some steps, for the report
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
from condense.device import precision
from condense.errors import UserError, unknown
from condense.files import load_tensors, save_tensors
from condense.methods import recipes
from condense.methods.base import Recipe
from condense.runs.ranks import Ranks
from condense.sets.condensed import STORAGES
from condense.settings import at_least, described, plain, read_value, require, within
from condense.study.record import check_none, differences, read_record, write_record
from condense.version import version

_KEEP = 2
"""Checkpoints that are kept: the last, and the one before it in case the last is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All settings of a run: what `run.json` records, and what a resumed run continues with.

    >>> from condense import recipe_for
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint="0123", ipc=2, seed=0,
    ...     recipe=recipe_for("dm", "digits", (1, 8, 8), 2), device="cpu", chunk=None,
    ...     checkpoint_every=200,
    ... )
    >>> Job.from_json(job.to_json()) == job
    True
    """

    source: Source
    fingerprint: str
    """The fingerprint of the dataset."""
    ipc: int
    """Images per class."""
    seed: int
    recipe: Recipe
    device: str
    """`cpu` or `cuda`."""
    chunk: int | None
    """Classes that are treated at once; None lets the engine choose."""
    checkpoint_every: int
    """Steps between two checkpoints."""
    storage: str = "float32"
    """How the images are stored, one of `condense.sets.condensed.STORAGES`."""
    pools: str | None = None
    """The folder of pools that runs share."""

    def __post_init__(self) -> None:
        for setting in described(Job):
            read_value(setting.kind, getattr(self, setting.name), setting.name)
        at_least(1, self, "ipc", "chunk", "checkpoint_every")
        require("device", self.device, self.device in ("cpu", "cuda"), "cpu or cuda")
        if self.storage not in STORAGES:
            raise unknown("storage", self.storage, STORAGES)

    def to_json(self) -> dict[str, Any]:
        """The job as it is written in `run.json`."""
        return dataclasses.asdict(self) | {"recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, fields: Any) -> "Job":
        """What `to_json` described; a `UserError` names the field that is not as it should be."""
        own = read_value(dict[str, Any], fields, "job")
        recipe = recipes.from_json(own.get("recipe"))
        return read_value(cls, own | {"recipe": recipe}, "job")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The content of `run.json` in the folder of a condensation.

    >>> RunRecord(source=Source(name="digits"), job={}, environment={}, progress={}).finished
    False
    """

    source: Source
    """Where the dataset is: that of the job, for whoever does not know jobs."""
    job: dict[str, Any]
    """A `Job` as JSON."""
    environment: dict[str, Any]
    """The software and the machine."""
    progress: dict[str, Any]
    """`finished`, and of a finished run also `steps_from`, `pool_seconds` and `seconds` of its last
    session."""

    @property
    def finished(self) -> bool:
        """Whether all files of the run are written."""
        return self.progress.get("finished") is True


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptRecord:
    """The content of `run.json` beside a set that no run made.

    >>> KeptRecord(source=Source(name="digits"), provenance={"method": "random"}).source.name
    'digits'
    """

    source: Source
    """Where its dataset is."""
    provenance: dict[str, Any]
    """That of the set."""


def record_of(folder: Path) -> RunRecord | KeptRecord | None:
    """What `run.json` in a folder says of a set that a run made, or no run; None if there is none.

    >>> record_of(Path("nowhere")) is None
    True
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    content = read_record(path)
    with within(f"{path} is not of this version of condensekit"):
        kind = KeptRecord if "provenance" in content else RunRecord
        return read_value(kind, content, "")


def load_record(folder: Path) -> tuple[RunRecord, Job]:
    """What `run.json` in `folder` records, and the job in it.

    Raises `UserError` if another version of condensekit wrote it, or if it is damaged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "run.json").write_text('{"plan": 1}')
    ...     load_record(Path(folder))
    Traceback (most recent call last):
    condense.errors.UserError: ...run.json is not of this version of condensekit: unknown field ...
    """
    path = folder / "run.json"
    content = read_record(path)
    with within(f"{path} is not of this version of condensekit"):
        record = read_value(RunRecord, content, "")
        job = Job.from_json(record.job)
        require("source", record.source, record.source == job.source, "that of the job")
    return record, job


def check_free(folder: Path, job: Job) -> None:
    """Raise a `UserError` if `folder` already holds a run, whether of this job or another.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import recipe_for
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint="0123", ipc=2, seed=0,
    ...     recipe=recipe_for("dm", "digits", (1, 8, 8), 2), device="cpu", chunk=None,
    ...     checkpoint_every=200,
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     record(Path(folder), job, finished=False)
    ...     check_free(Path(folder), dataclasses.replace(job, seed=1))
    Traceback (most recent call last):
    condense.errors.UserError: ... holds a run with other settings (seed 0 there, 1 here): ...
    """
    if (folder / "run.json").exists():
        if changed := differences(job.to_json(), load_record(folder)[1].to_json()):
            raise UserError(
                f"{folder} holds a run with other settings ({changed}): choose another --out"
            )
        raise UserError(
            f"{folder} already holds this run: go on with `condensekit condense --resume {folder}`"
            f", or in Python with `resume({str(folder)!r}, dataset)`"
        )
    check_none(folder, ("grid.png", "history.json", "report.html"))


def record(folder: Path, job: Job, **progress: Any) -> None:
    """Write `run.json`: the job, the software and the machine, and the progress so far.

    >>> from tempfile import TemporaryDirectory
    >>> from condense import recipe_for
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint="0123", ipc=2, seed=0,
    ...     recipe=recipe_for("dm", "digits", (1, 8, 8), 2), device="cpu", chunk=None,
    ...     checkpoint_every=200,
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     record(Path(folder), job, finished=False)
    ...     sorted(read_record(Path(folder, "run.json")))
    ['environment', 'job', 'progress', 'source']
    """
    content = RunRecord(
        source=job.source,
        job=job.to_json(),
        environment=environment(job.device),
        progress=progress,
    )
    write_record(folder / "run.json", plain(content))


def environment(device: str) -> dict[str, Any]:
    """The software and the machine, `device` (`cpu` or `cuda`) of it.

    >>> list(environment("cpu"))
    ['condensekit', 'torch', 'python', 'machine', 'threads', 'precision']
    """
    return {
        "condensekit": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": precision(torch.device(device)),
    }


class Checkpoints:
    """The saved states of one rank's engine in a run folder.

    A team of another number of ranks does not see them and starts again, since it shares the
    classes differently.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(Path(folder), Ranks())
    ...     checkpoints.save({"images": torch.zeros(2)}, step=200)
    ...     checkpoints.last_good()
    ({'images': tensor([0., 0.])}, 200)
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder = folder / "checkpoints"
        if ranks.count > 1:
            self._folder = self._folder / f"rank-{ranks.rank}-of-{ranks.count}"

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Save the state after `step` steps, and delete all but the last two states."""
        save_tensors(self._folder / f"step-{step:08d}.safetensors", state, {"step": step})
        for old in self.newest_first()[_KEEP:]:
            old.unlink()

    def newest_first(self) -> list[Path]:
        """The paths of the saved states, the last state first."""
        return sorted(self._folder.glob("step-*.safetensors"), reverse=True)

    def last_good(self) -> tuple[dict[str, Tensor], int] | None:
        """The last state that is not damaged, and its number of steps; None if there is none.

        A damaged state is reported on stderr and skipped.
        """
        for path in self.newest_first():
            try:
                state, header = load_tensors(path)
                return state, read_value(int, header.get("step"), f"{path}: step")
            except UserError as error:
                print(f"{error}; going on from the checkpoint before it", file=sys.stderr)
        return None
