"""The jobs of the campaign that condense a set and evaluate it."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.workplace import Workplace
from benchmarks.tables.bench import TableWork, Trained, networks_of
from condense import CondensedSet, Recipe, Score, UserError
from condense.reading import read_json
from condense.runs.shelf import Made
from condense.sets.condensed import FILE_NAME
from condense.study.trials import Trial

RECIPES: dict[str, tuple[str, dict[str, Any], float]] = {
    "scale100": ("paper", {"loss_scale": 100.0}, 1),
    "best": ("best", {}, 1),
    "paper": ("paper", {}, 2),
    "dm": ("dm", {}, 2),
    "official-code": ("official-code", {}, 2),
    "scale100-standard": ("paper", {"loss_scale": 100.0, "preprocess": "standard"}, 2),
    "paper-standard": ("paper", {"preprocess": "standard"}, 4),
    "official-code-zca": ("official-code", {"preprocess": "zca"}, 4),
}
"""Name of a line -> recipe, changes, and how many times cheaper it has to be to come first."""
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class SetJob:
    """One condensed set of the campaign, and the networks trained on it."""

    line: str
    recipe: Recipe
    made: Made
    trained: Trained


def condense_and_evaluate(place: Workplace, name: str, *, job: SetJob) -> None:
    """Condense a set, then train networks of the recipe on it, which the tables share."""
    record = place.record(name) | {
        "dataset": job.made.source.name,
        "ipc": job.made.ipc,
        "line": job.line,
        "recipe": job.recipe.to_json(),
        "seed": job.made.seed,
        "epochs": job.trained.protocol.epochs,
        "evaluated": "the float32 set, by networks of the recipe's architecture, "
        "on the whole test set",
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
    begun = read_json(run / "run.json") if (run / "run.json").exists() else None
    if begun and (theirs := begun["job"]["device"]) != bench.place.type:
        raise UserError(f"{run} was begun on {theirs}: go on with it there, or delete it")
    try:
        with place.leg(record, "condense"):
            condensed = bench.condensed(job.made)
    finally:
        _lighten(run)
    record["set"] = str(place.keep_set(condensed, record["name"]))
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
        elif path.name not in needed:
            path.unlink()
    for old in sorted((run / "checkpoints").glob("step-*"))[:-1]:
        old.unlink()
