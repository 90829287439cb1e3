"""What it costs to store a set in fewer bytes: the same trainings from each storage."""

import tempfile
from pathlib import Path

import click

from benchmarks import results
from condense import CondensedSet, Protocol, evaluate
from condense.command import guard
from condense.report.tables import markdown, percent
from condense.runs.shelf import source_of
from condense.sets.condensed import STORAGES

HEADERS = ("storage", "images and labels, kB", "test accuracy, %", "95 % interval")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path())
@click.option("--epochs", default=300, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--name", default="storage", show_default=True, help="Name of the result files.")
def main(run: Path, data_dir: str | None, epochs: int, repeats: int, name: str) -> None:
    """Evaluate the set of RUN as float32, float16 and uint8."""
    condensed, real = CondensedSet.load(run), source_of(run, data_dir).load()
    measured = {}
    for storage in STORAGES:
        with tempfile.TemporaryDirectory() as folder:
            stored = CondensedSet.load(
                condensed.save(Path(folder) / "set.safetensors", storage=storage)
            )
        score = evaluate(stored, real, repeats=repeats, protocol=Protocol(epochs=epochs))["convnet"]
        measured[storage] = {"bytes": condensed.nbytes(storage), **score.to_json()}
        click.echo(f"{storage}: {score.mean:.2%}")
    rows = [
        [storage, f"{one['bytes'] / 1000:.0f}", f"{100 * one['mean']:.2f}", percent(one["ci95"])]
        for storage, one in measured.items()
    ]
    lines = [
        f"{real.name}, {condensed.ipc} images per class, `{condensed.preprocess.name}`; the same "
        "seeds for each storage.",
        "",
        *markdown(HEADERS, rows),
    ]
    results.write(name, {"provenance": condensed.provenance, "storages": measured}, lines)


if __name__ == "__main__":
    guard.run(main)
