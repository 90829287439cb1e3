"""The jobs of the campaign that condense a set and evaluate it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.workplace import Workplace
from condense import CondensedSet, Protocol, Recipe, Score, UserError
from condense.data.catalogue import Source
from condense.device import pick_device
from condense.files import read_json
from condense.progress import progress
from condense.randomness import derive
from condense.runs.shelf import Made, Shelf
from condense.sets.condensed import FILE_NAME
from condense.study.interrupt import Interrupted
from condense.training.evaluate import check_belongs, train_many

CHECKPOINT_EVERY = 500


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
"""Name of a line -> recipe, what is changed in it, and how many times cheaper than the first it must be to come as early."""


CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One condensed set of the table, and the networks trained on it."""

    dataset: str
    ipc: int
    line: str
    recipe: Recipe
    seed: int
    repeats: int
    protocol: Protocol


def condense_and_evaluate(place: Workplace, name: str, *, cell: Cell) -> None:
    """Condense a set, then train networks of the recipe's own architecture on it and test them on the whole test set."""
    record = place.record(name)
    record |= {
        "dataset": cell.dataset,
        "ipc": cell.ipc,
        "line": cell.line,
        "recipe": cell.recipe.to_json(),
        "seed": cell.seed,
        "epochs": cell.protocol.epochs,
        "evaluated": "the float32 set, by networks of the recipe's architecture, on the whole test set",
    }
    shelf = Shelf(folder=place.out / f"{name}.run", checkpoint_every=CHECKPOINT_EVERY)
    condensed, dataset = _condensed(place, record, shelf, cell), place.dataset(cell.dataset)
    check_belongs(condensed, dataset)
    first, device = len(accuracies_of(record)), pick_device("auto")
    test = (
        condensed.preprocess.apply(dataset.test.pixels).to(device),
        dataset.test.labels.to(device),
    )
    seed = derive(cell.seed, "campaign")
    with (
        progress(f"{name} networks", cell.repeats, first) as told,
        place.leg(record, "evaluate") as leg,
    ):
        leg["accuracies"] = []
        for value in train_many(
            cell.recipe.network,
            condensed,
            test,
            cell.repeats,
            cell.protocol,
            seed,
            device,
            first=first,
        ):
            leg["accuracies"].append(value)
            done = len(accuracies_of(record))
            told(done, f"{value:.1%}")
            place.keep(record, f"condensed, {done} of {cell.repeats} networks")
    score = Score(tuple(accuracies_of(record)))
    place.keep(
        record | {"finished": True, "score": score.to_json()},
        f"accuracy {score.mean:.2%}, std {score.std:.2%}",
    )
    shutil.rmtree(shelf.folder)


def _condensed(place: Workplace, record: dict[str, Any], shelf: Shelf, cell: Cell) -> CondensedSet:
    """The float32 set of a cell: finished, gone on with, or begun."""
    source, dataset = Source(name=cell.dataset), place.dataset(cell.dataset)
    made = Made(source=source, ipc=cell.ipc, seed=cell.seed, how=cell.recipe)
    run = shelf.place(made, dataset)
    if (run / FILE_NAME).exists() and "set" in record:
        return CondensedSet.load(run)
    if (run / "run.json").exists() and (
        theirs := read_json(run / "run.json")["job"]["device"]
    ) != pick_device("auto").type:
        raise UserError(f"{run} was begun on {theirs}: go on with it there, or delete it")
    try:
        with place.leg(record, "condense"):
            condensed = shelf.made(made, dataset)
    except (Interrupted, KeyboardInterrupt) as stopped:
        place.keep(record, str(stopped).split(";")[0] or "begun")
        raise
    finally:
        _lighten(run)
    record["set"] = str(place.keep_set(condensed, record["name"]))
    moved = (
        (CondensedSet.load(place.out / record["set"]).images - condensed.images)
        .square()
        .mean()
        .sqrt()
    )
    record["uint8_moves_pixels_by"] = round(
        float(moved / condensed.images.std()), 4
    )  # rms, in standard deviations
    place.keep(record, "condensed")
    return condensed


def accuracies_of(record: dict[str, Any]) -> list[float]:
    return [value for leg in record.get("evaluate", []) for value in leg.get("accuracies", [])]


def _lighten(run: Path) -> None:
    """Leave of a run folder what going on needs, to be carried to the next machine: its record, and the set or the state."""
    finished = (run / FILE_NAME).exists()
    needed = (
        {"run.json", FILE_NAME}
        if finished
        else {"run.json", "start.safetensors", "pool", "checkpoints"}
    )
    for path in run.glob("*"):
        if path.is_dir() and path.name not in needed:
            shutil.rmtree(path)
        elif path.name not in needed:
            path.unlink()
    for old in sorted((run / "checkpoints").glob("step-*"))[:-1]:
        old.unlink()
