"""The jobs of the campaign that condense a set and evaluate it."""

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign.workplace import Workplace
from benchmarks.tables.bench import TableWork, Trained, networks_of
from condense import CondensedSet, Recipe, Score, UserError, recipe_for
from condense.reading import read_json
from condense.runs.shelf import Made, Selection
from condense.sets.condensed import FILE_NAME
from condense.study.trials import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One way to make a set."""

    recipe: str = ""
    """A recipe by name; none for a selection of real images."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What is changed in the recipe."""
    select: str = ""
    """A selection of real images by name, standardised."""
    factor: float = 1
    """How many times cheaper it has to be to come first."""

    def how(self, dataset: str, ipc: int, changes: dict[str, Any]) -> Recipe | Selection:
        """How its sets are made; `changes` are made in every recipe, its own count more."""
        if self.select:
            return Selection(method=self.select)
        # The resolution matters to a recipe from 64 pixels on: no dataset here is that large.
        return recipe_for(self.recipe, dataset, (3, 32, 32), ipc).override(changes | self.changes)


LINES = {
    "random": Line(select="random"),
    "herding": Line(select="herding", factor=2),
    "datadam": Line(recipe="datadam"),
    "best": Line(recipe="best"),
    "paper": Line(recipe="paper", factor=2),
    "dm": Line(recipe="dm", factor=2),
    "official-code": Line(recipe="official-code", factor=2),
    "datadam-standard": Line(recipe="datadam", changes={"preprocess": "standard"}, factor=2),
    "datadam-256": Line(recipe="datadam", changes={"real_batch": 256}, factor=2),
    "paper-standard": Line(recipe="paper", changes={"preprocess": "standard"}, factor=4),
    "official-code-zca": Line(recipe="official-code", changes={"preprocess": "zca"}, factor=4),
}
"""The lines of the results, by name."""
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class SetJob:
    """One condensed set of the campaign, and the networks trained on it."""

    line: str
    made: Made
    trained: Trained


def condense_and_evaluate(place: Workplace, name: str, *, job: SetJob) -> None:
    """Make a set, then train networks on it, which the tables share."""
    record = place.record(name) | {
        "dataset": job.made.source.name,
        "ipc": job.made.ipc,
        "line": job.line,
        "how": job.made.how.to_json(),
        "seed": job.made.seed,
        "network": job.trained.network,
        "protocol": dataclasses.asdict(job.trained.protocol),
        "evaluated": "the float32 set, on the whole test set, after the last pass",
    }
    folder = place.out / f"{name}.run"
    with place.tables(folder) as work:
        _condense(place, record, work, job)
        tasks = networks_of(job.made, job.trained)
        with place.leg(record, "evaluate") as leg:
            leg["accuracies"] = []

            def watch(done: int, trial: Trial) -> None:
                leg["accuracies"] += [v for k, v in trial.result.items() if k == "accuracy"]
                place.keep(record, f"condensed, {done} of {len(tasks)} networks")

            results = work.do(f"{name} networks", tasks, watch)
    for result in results.values():
        if "failed" in result:
            raise UserError(result["failed"])
    score = Score(tuple(result["accuracy"] for result in results.values()))
    place.keep(
        record | {"finished": True, "score": score.to_json()},
        f"accuracy {score.mean:.2%}, std {score.std:.2%}",
    )
    shutil.rmtree(folder)


def _condense(place: Workplace, record: dict[str, Any], work: TableWork, job: SetJob) -> None:
    """Make the float32 set of a job: found, gone on with, or begun. Keep it as uint8 too."""
    bench = dataclasses.replace(work.bench, quiet=False)  # it is made in this process
    run = bench.shelf.place(job.made, bench.dataset(job.made.source))
    if (run / FILE_NAME).exists() and "set" in record:
        return
    begun = read_json(run / "run.json") if (run / "run.json").exists() else {}
    if "job" in begun and (theirs := begun["job"]["device"]) != bench.place.type:
        raise UserError(f"{run} was begun on {theirs}: go on with it there, or delete it")
    try:
        with place.leg(record, "condense"):
            condensed = bench.condensed(job.made)
    finally:
        _lighten(run)
    real = isinstance(job.made.how, Selection)
    record["set"] = str(place.keep_set(condensed, record["name"], real=real))
    moved = CondensedSet.load(place.out / record["set"]).images - condensed.images
    # The root mean square, in standard deviations of the images.
    record["uint8_moves_pixels_by"] = round(
        float(moved.square().mean().sqrt() / condensed.images.std()), 4
    )
    place.keep(record, "condensed")


def _lighten(run: Path) -> None:
    """Leave of a run folder what the next machine needs: its record, and the set or the state."""
    state = {"start.safetensors", "pool", "checkpoints"}
    needed = {"run.json", *([FILE_NAME] if (run / FILE_NAME).exists() else state)}
    for path in run.glob("*"):
        if path.is_dir() and path.name not in needed:
            shutil.rmtree(path)
        elif path.name not in needed and not path.name.startswith("zca-"):
            path.unlink()
    for old in sorted((run / "checkpoints").glob("step-*"))[:-1]:
        old.unlink()
