"""How the store of trials grows with its rows, and a folder of images with its files.

Both are small work, and are timed by what this process had of the processor: so other work on the
machine does not count, nor does waiting for a disk. Every point is measured anew, in a folder of
its own; of several rounds the least counts. `slope` is that of the logarithms: 1 is growth in
proportion.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import click
import numpy as np
from PIL import Image

from benchmarks import results
from benchmarks.options import Benchmark
from condense.command import guard
from condense.data.folders import folder
from condense.report.tables import markdown
from condense.study.trials import Key, Trial, Trials

Curve = Literal["trials", "images"]
SIZES: dict[str, tuple[int, ...]] = {
    "trials": (100, 1_000, 4_000, 15_625),
    "images": (1_000, 10_000, 100_000),
}
"""Rows of a store, up to all cells of NAS-Bench-201; files of a folder."""
_SIDE, _CLASSES = 32, 10


def seconds(work: Callable[[], Any]) -> float:
    """The seconds that this process had of the processor for a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def trials(rows: int, place: Path) -> dict[str, float]:
    """Seconds to write so many trainings of a search to a store, to open it, and to read them."""

    def write() -> None:
        with Trials(place / "trials.sqlite") as store:
            for number in range(rows):
                curve = [2.3 - number / (rows + epoch) for epoch in range(20)]
                result = {"curve": {"loss": curve}, "scores": {"accuracy": number / rows}}
                store.add(Trial(Key.of("growth", architecture=number), result, 1.0, "here"))

    def read() -> None:
        with Trials(place / "trials.sqlite") as store:
            assert len(store.find("growth")) == rows

    return {"write_s": seconds(write), "read_s": seconds(read)}


def images(files: int, place: Path) -> dict[str, float]:
    """Seconds to load a folder of so many small PNG files, the first time and from the cache."""
    noise = np.random.default_rng(0).integers(0, 256, (64, _SIDE, _SIDE, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    classes = [place / "pictures" / f"class{number}" for number in range(_CLASSES)]
    for path in classes:
        path.mkdir(parents=True)
    for number in range(files):
        path = classes[number % _CLASSES] / f"{number}.png"
        pictures[number % len(pictures)].save(path, compress_level=0)

    def load() -> None:
        dataset = folder(f"folder:{place / 'pictures'}", home=place / "cache", resolution=_SIDE)
        assert len(dataset.train) + len(dataset.test) == files

    return {"first_s": seconds(load), "again_s": seconds(load)}


MEASURES: dict[str, Callable[[int, Path], dict[str, float]]] = {"trials": trials, "images": images}


def slopes(points: list[dict[str, Any]]) -> dict[str, float]:
    """The slope of the logarithms of each time against the size; none of a single point.

    >>> slopes([{"size": 1, "read_s": 2.0}, {"size": 100, "read_s": 200.0}])
    {'read_s': 1.0}
    """
    if len(points) < 2:
        return {}
    sizes = np.log([point["size"] for point in points])
    return {
        name: round(float(np.polyfit(sizes, np.log([point[name] for point in points]), 1)[0]), 6)
        for name in points[0]
        if name.endswith("_s")
    }


def _measured(curve: str, size: int) -> dict[str, float]:
    """The times of a point, in a folder of its own."""
    with TemporaryDirectory() as place:
        return MEASURES[curve](size, Path(place))


def least(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The least of each figure."""
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured."""

    curve: tuple[Curve, ...] = get_args(Curve)
    """Measure these alone; may be given again."""
    most: int | None = None
    """Leave out sizes above this."""
    rounds: int = 3
    """Measurements of every point."""
    name: str = "growth"
    """Name of the result files."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Measure the processor time of stores and of folders of images by their size."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for curve in asked.curve:
        _measured(curve, 2 * _CLASSES)  # libraries load at their first use
        for size in (size for size in SIZES[curve] if size <= (asked.most or size)):
            rounds = [_measured(curve, size) for _ in range(asked.rounds)]
            point = {"size": size, **least(rounds)}
            click.echo(f"{curve} {point}")
            curves.setdefault(curve, []).append(point)
            # After every point: a run cut short has shown something.
            shown = {
                name: {"points": points, "slopes": slopes(points)}
                for name, points in curves.items()
            }
            document = {"clock": "cpu", "rounds": asked.rounds, "curves": shown}
            results.write(asked.name, document, table(shown))


def table(curves: dict[str, Any]) -> list[str]:
    """The curves as Markdown."""
    lines = ["Seconds of the processor, so that other work on the machine does not count.", ""]
    for name, curve in curves.items():
        times = [field for field in curve["points"][0] if field.endswith("_s")]
        rows = [
            [f"{point['size']:,}", *(f"{point[field]:.3f}" for field in times)]
            for point in curve["points"]
        ]
        slopes_of = [f"{slope:.2f}" for slope in curve["slopes"].values()]
        rows += [["slope of the logarithms", *slopes_of]] if slopes_of else []
        lines += [*markdown((name, *(field[:-2] for field in times)), rows), ""]
    return lines


if __name__ == "__main__":
    guard.run(main)
