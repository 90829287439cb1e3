"""A run of the engine in a folder: started once, killed at will, resumed to the same bits.

set.safetensors      the condensed set, at the end
start.safetensors    the starting images; holds the fitted preprocessing, so that resuming never fits again
checkpoints/         the last two states of the engine
run.json             everything resolved: dataset, recipe, seed, device, versions, timings
grid.png             the set as a picture
tensorboard/         loss curves and image grids
"""

import contextlib
import dataclasses
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from condense import report, select
from condense.data import Dataset, load_dataset
from condense.device import peak_memory, pick_device
from condense.engine import Diverged, Engine
from condense.errors import UserError, unknown
from condense.exchange import import_set
from condense.files import load_tensors, read_json, save_tensors, write_json
from condense.preprocess import make_preprocess
from condense.progress import progress
from condense.provenance import provenance, version
from condense.recipes import Recipe, resolve
from condense.store import STORAGES, CondensedSet

_KEEP = 2
"""Checkpoints kept: the last, and the one before it should the last be damaged."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved. The text says how to go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset came from, so that a resumed run finds it again."""

    name: str
    data_dir: str | None = None
    resolution: int | None = None
    hold_out: int = 0
    """Training images set apart as the test set, for making choices; 0: the real test set."""

    def load(self, *, download: bool = False) -> Dataset:
        """The dataset itself."""
        dataset = load_dataset(self.name, self.data_dir, resolution=self.resolution, download=download)
        # One split whatever the seed of a run: sets of several seeds are evaluated on the same images.
        return dataset.hold_out(self.hold_out, seed=0) if self.hold_out else dataset


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
    def from_json(cls, fields: dict[str, Any]) -> "Job":
        """What `to_json` described."""
        return cls(**{**fields, "source": Source(**fields["source"]), "recipe": Recipe.from_json(fields["recipe"])})


def condense(
    dataset: Dataset,
    *,
    ipc: int,
    recipe: str | Recipe = "paper",
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    chunk: int | None = None,
    checkpoint_every: int = 200,
    storage: str = "float32",
    source: Source | None = None,
    quiet: bool = False,
) -> CondensedSet:
    """Condense `dataset` into `ipc` images per class.

    With `out` the run is kept in that folder, checkpointed every `checkpoint_every` steps, and can be resumed; without, it lives
    in memory. `recipe` is a name of `RECIPES` or a `Recipe`; `steps` replaces its number of steps. Raises `UserError`
    for bad input, for a folder that holds another run, and for a loss that diverges; `Interrupted` on Ctrl-C, state saved.
    """
    if isinstance(recipe, str):
        recipe = resolve(recipe, dataset.name, dataset.shape, ipc)
    if steps is not None:
        recipe = recipe.override({"steps": steps})
    if checkpoint_every < 1:
        raise UserError(f"--checkpoint-every {checkpoint_every}: it must be 1 or more")
    select.check_ipc(dataset, ipc)
    job = Job(
        source=source or Source(name=dataset.name),
        fingerprint=dataset.fingerprint,
        ipc=ipc,
        seed=seed,
        recipe=recipe,
        device=pick_device(device).type,
        chunk=chunk,
        checkpoint_every=checkpoint_every,
        storage=storage,
    )
    if out is None:
        start = _start(dataset, job)
        return _run(_engine(dataset, job, start), job, None, start, quiet)
    folder = Path(out)
    with _locked(folder):
        _check_free(folder, job)
        start = _start(dataset, job)
        engine = _engine(dataset, job, start)  # all that can be wrong with a job shows before the folder becomes its own
        start.save(folder / "start.safetensors")
        _record(folder, job, finished=False)
        return _run(engine, job, folder, start, quiet)


def rehearse(
    dataset: Dataset, *, ipc: int, recipe: Recipe, seed: int = 0, device: str = "auto", chunk: int | None = None, steps: int = 3
) -> dict[str, Any]:
    """What `condense` would do, with time and memory measured on a few steps (the first, which warms up, not counted)."""
    select.check_ipc(dataset, ipc)
    place = pick_device(device)
    preprocess = make_preprocess(recipe.preprocess, dataset)
    start = select.noise(dataset, ipc, preprocess=preprocess, seed=seed)
    engine = Engine(dataset, recipe, preprocess, start.images, seed=seed, device=place, chunk=chunk)
    engine.step(0)
    began = time.perf_counter()
    for step in range(1, steps):
        engine.step(step)
    seconds = (time.perf_counter() - began) / (steps - 1)
    return {
        "recipe": recipe.to_json(),
        "ipc": ipc,
        "device": place.type,
        "chunk": engine.chunk,
        "seconds_a_step": round(seconds, 4),
        "seconds_in_all": round(seconds * recipe.steps),
        "peak_memory_MB": round(peak_memory(place) / 1e6),
    }


def resume(out: str | Path, dataset: Dataset | None = None, *, quiet: bool = False) -> CondensedSet:
    """Go on with the run in folder `out`, from its last good checkpoint, to the same file as if it had never stopped.

    `dataset` is needed only where the run was started on one that has no name to load it by.
    """
    folder = Path(out)
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} holds no run (no run.json): start one with `condense --out {folder}`")
    with _locked(folder):
        job = load_job(folder)
        if (folder / "set.safetensors").exists():
            return CondensedSet.load(folder)
        dataset = dataset or job.source.load()
        if dataset.fingerprint != job.fingerprint:
            raise UserError(
                f"{folder} condenses {job.source.name} with content {job.fingerprint}, "
                f"but {dataset.name} found now has content {dataset.fingerprint}"
            )
        start = CondensedSet.load(folder / "start.safetensors")
        return _run(_engine(dataset, job, start), job, folder, start, quiet)


def source_of(path: Path, data_dir: str | None = None) -> Source:
    """Where the dataset of the set at `path` (a run folder or the file in it) is; `data_dir` if it has moved."""
    record = (path if path.is_dir() else path.parent) / "run.json"
    if not record.exists():
        raise UserError(f"{path} does not say where its dataset is (no {record.name} beside it): give --dataset and --data-dir")
    try:
        source = Source(**read_json(record)["source"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{record} is not of this version of condensekit: {error}") from None
    return dataclasses.replace(source, data_dir=data_dir) if data_dir else source


def select_into(
    folder: Path,
    dataset: Dataset,
    source: Source,
    *,
    method: str,
    ipc: int,
    preprocess: str,
    seed: int,
    device: str,
    storage: str,
) -> CondensedSet:
    """Select `ipc` real images per class by `method` and keep them as a set in `folder`."""
    fitted = make_preprocess(preprocess, dataset)
    return _keep(folder, source, storage, select.select(method, dataset, ipc, preprocess=fitted, seed=seed, device=device))


def import_into(
    folder: Path, path: Path, dataset: Dataset, source: Source, *, preprocess: str, experiment: int, storage: str
) -> CondensedSet:
    """Read the foreign set at `path` and keep it in `folder`."""
    imported = import_set(path, dataset.classes, make_preprocess(preprocess, dataset), experiment, dataset.name)
    return _keep(folder, source, storage, imported)


def _keep(folder: Path, source: Source, storage: str, condensed: CondensedSet) -> CondensedSet:
    with _locked(folder):
        if (folder / "run.json").exists():
            raise UserError(f"{folder} already holds a run: choose another --out")
        condensed.save(folder, storage=storage)
        report.grid(condensed, folder / "grid.png")
        write_json(folder / "run.json", {"source": dataclasses.asdict(source), "provenance": condensed.provenance})
    return condensed


def load_job(folder: Path) -> Job:
    """The job that `run.json` in `folder` records."""
    try:
        return Job.from_json(read_json(folder / "run.json")["job"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'run.json'} is not of this version of condensekit: {error}") from None


def _engine(dataset: Dataset, job: Job, start: CondensedSet) -> Engine:
    place = torch.device(job.device)
    return Engine(dataset, job.recipe, start.preprocess, start.images, seed=job.seed, device=place, chunk=job.chunk)


def _run(engine: Engine, job: Job, folder: Path | None, start: CondensedSet, quiet: bool) -> CondensedSet:
    done = _restore(engine, folder) if folder else 0
    began = time.monotonic()
    if done < job.recipe.steps:
        _steps(engine, job, folder, start, done, quiet)
    result = dataclasses.replace(
        start, images=engine.images.detach().cpu(), provenance=start.provenance | {"steps": job.recipe.steps}
    )
    if folder is None:
        return result
    result.save(folder / "set.safetensors", storage=job.storage)
    report.grid(result, folder / "grid.png")
    _record(folder, job, steps_from=done, seconds=time.monotonic() - began, finished=True)
    return CondensedSet.load(folder)


def _steps(engine: Engine, job: Job, folder: Path | None, start: CondensedSet, done: int, quiet: bool) -> None:
    steps = job.recipe.steps
    images_a_step = len(start.classes) * (job.recipe.real_batch + job.ipc)
    with (
        _stop_signal() as stop,
        _curves(folder, done) as curves,
        progress("condense", steps, done, quiet=quiet) as report_progress,
    ):
        for step in range(done, steps):
            began = time.perf_counter()
            try:
                losses = engine.step(step)
            except Diverged:
                raise UserError(_diverged(step, folder)) from None
            seconds = time.perf_counter() - began
            parts = "  ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
            report_progress(
                step + 1,
                f"loss {sum(losses.values()):.4g} ({parts})  {seconds:.3f} s/step  {images_a_step / seconds:.0f} images/s",
            )
            if curves:
                _draw(curves, step + 1, losses, seconds)
            last = step + 1 == steps
            if folder and ((step + 1) % job.checkpoint_every == 0 or stop() or last):
                _checkpoint(engine, folder, step + 1)
                if curves:
                    _picture(curves, step + 1, dataclasses.replace(start, images=engine.images.detach().cpu()))
            if stop() and not last:
                how = f"go on with `condense --resume {folder}`" if folder else "nothing is kept: no `--out` was given"
                raise Interrupted(f"stopped after step {step + 1} of {steps}; {how}")


def _start(dataset: Dataset, job: Job) -> CondensedSet:
    """The starting images, under a preprocessing fitted to the dataset."""
    if job.storage not in STORAGES:
        raise unknown("storage", job.storage, STORAGES)
    recipe, preprocess = job.recipe, make_preprocess(job.recipe.preprocess, dataset)
    if recipe.init == "noise":
        start = select.noise(dataset, job.ipc, preprocess=preprocess, seed=job.seed)
    else:
        start = select.select(recipe.init, dataset, job.ipc, preprocess=preprocess, seed=job.seed, device=job.device)
    facts = {"ipc": job.ipc, "seed": job.seed, "recipe": recipe.to_json(), "device": job.device, "steps": 0}
    return dataclasses.replace(start, provenance=provenance(dataset, **facts))


def _check_free(folder: Path, job: Job) -> None:
    """Raise a `UserError` if `folder` holds a run already, this job's or another's."""
    if (folder / "run.json").exists():
        if (there := load_job(folder)) != job:
            raise UserError(f"{folder} holds a run with other settings ({_difference(there, job)}): choose another --out")
        raise UserError(f"{folder} already holds this run: go on with `condense --resume {folder}`")


def _difference(old: Job, new: Job) -> str:
    def flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in fields.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    before, now = dict(flat(old.to_json())), dict(flat(new.to_json()))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} there, {now.get(key)} here" for key in changed[:3])


def _record(folder: Path, job: Job, **progress: Any) -> None:
    environment = {
        "condensekit": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if job.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    record = {"source": dataclasses.asdict(job.source), "job": job.to_json(), "environment": environment, "progress": progress}
    write_json(folder / "run.json", record)


def _checkpoint(engine: Engine, folder: Path, step: int) -> None:
    save_tensors(folder / "checkpoints" / f"step-{step:08d}.safetensors", engine.state(), {"step": step})
    for old in _checkpoints(folder)[_KEEP:]:
        old.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True)


def _restore(engine: Engine, folder: Path) -> int:
    """Put the engine into its last good checkpoint; returns the step it was saved after, 0 if there is none."""
    for path in _checkpoints(folder):
        try:
            state, header = load_tensors(path)
        except UserError as error:
            print(f"{error}; going on from the checkpoint before it", file=sys.stderr)
            continue
        engine.load_state(state)
        return int(header["step"])
    return 0


def _diverged(step: int, folder: Path | None) -> str:
    kept = _checkpoints(folder) if folder else []
    where = f"; the last good state is {kept[0]}" if kept else ""
    return f"the loss diverged at step {step + 1} (not finite, or pixels beyond reason): lower --lr or --loss-scale{where}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder} is in use by another run: wait for it or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
        if [path.name for path in folder.iterdir()] == [".lock"]:  # nothing came of it: leave no trace
            (folder / ".lock").unlink()
            folder.rmdir()


@contextlib.contextmanager
def _stop_signal() -> Iterator[Any]:
    """While inside, Ctrl-C only raises a flag: the step under way is finished and saved. A second one stops at once."""
    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: its owner handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _curves(folder: Path | None, done: int) -> Iterator[Any]:
    """A TensorBoard writer, or None where there is no folder or no TensorBoard."""
    if folder is None:
        yield None
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports warn
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed: no curves are written (pip install tensorboard)", file=sys.stderr)
        yield None
        return
    with SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1) as writer:
        yield writer


def _draw(curves: Any, step: int, losses: dict[str, float], seconds: float) -> None:
    for name, loss in losses.items():
        curves.add_scalar(f"loss/{name}", loss, step)
    curves.add_scalar("loss/total", sum(losses.values()), step)
    curves.add_scalar("seconds a step", seconds, step)


def _picture(curves: Any, step: int, state: CondensedSet) -> None:
    pixels: Tensor = state.pixels()
    shown = torch.cat([pixels[state.labels == label][:10] for label in range(min(len(state.classes), 10))])
    curves.add_images("images", shown, step)
