"""The tool in two minutes: condense digits, compare with random real ones, write a report.

The dataset is scikit-learn's digits (1,797 images of 8 x 8), so nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import click

from condense import Protocol, condense, evaluate, load_dataset, recipe_for
from condense.command import guard
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from condense.progress import progress
from condense.report import blocks
from condense.report.blocks import Command, Facts, Report, Section, Text
from condense.report.frames import pictures
from condense.report.page import write

IPC, STEPS, REPEATS = 2, 300, 10
PROTOCOL = Protocol(epochs=300, augment="dsa-noflip")


@click.command()
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the report.",
)
def main(out: Path) -> None:
    """Condense the embedded digits and report what a network learns from them."""
    digits = load_dataset("digits")
    recipe = recipe_for("datadam", digits.name, digits.shape, IPC).override(
        {"real_batch": 64, "steps": STEPS}
    )
    random = select("random", digits, IPC, preprocess=make_preprocess("standard", digits), seed=0)
    condensed = condense(digits, ipc=IPC, recipe=recipe, seed=0)
    scores = {}
    for name, chosen in (("random real images", random), ("condensed", condensed)):
        options: Any = {"repeats": REPEATS, "protocol": PROTOCOL}
        with progress(f"train on {name}", REPEATS) as watch:
            scores[name] = evaluate(chosen, digits, **options, progress=watch)["convnet"]

    condensed.save(out)
    images = len(digits.train)
    explained = (
        f"{REPEATS} networks trained on {IPC} images per class each, tested on {len(digits.test)} "
        "real images. Both sets are of the same size; the interval is over the networks, for this "
        "one seed of each set."
    )
    report = Report(
        f"{images:,} digits in {len(condensed)} images",
        [
            Section("Accuracy", Text(explained), blocks.scores(scores)),
            Section("Condensed by DataDAM", pictures(condensed)),
            Section("Random real images", pictures(random)),
            Section("How", Command("python -m benchmarks.demo"), Facts(condensed.provenance)),
        ],
    )
    page = write(out / "report.html", report)
    for name, score in scores.items():
        low, high = score.ci95
        click.echo(f"{name:<20} {score.mean:.1%}  (95 % interval {low:.1%} to {high:.1%})")
    click.echo(f"the set is {out / 'set.safetensors'}; look at {page}")


if __name__ == "__main__":
    guard.run(main)
