"""How a step's time and memory grow with classes, images per class, resolution and ranks.

Every point is measured in a fresh process on random images: the median time of a step after two to
warm up, and the most memory used; on a CPU in several rounds, of which the median time and the most
memory are shown. Memory is split: what must lie there between steps (real images as uint8,
synthetic images and their momentum as float32) grows with the classes by its nature; what a step
needs on top, the working memory, should not.

The ranks' curve runs the command itself under torchrun on an array of random images: the difference
of a long and a short run.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import click
import torch

from benchmarks import results
from benchmarks.options import Benchmark, Clock
from benchmarks.step import Setting, apart, noise_dataset, seconds
from condense.command import guard
from condense.data.images import Dataset
from condense.data.preprocess import Standardize
from condense.device import peak_memory, pick_device, reset_peak_memory
from condense.reading import read_json
from condense.report.figures import panels, save_figure
from condense.report.tables import markdown
from condense.runs.engine import Engine

TOLERANCE = 0.10
"""How far the cost may be from a line, and the working memory from its median, in the verdict."""
Curve = Literal["classes", "ipc", "size", "ranks"]
MEMORY = ("peak_bytes", "held_bytes", "working_bytes")
HEADERS = ("setting", "step, s", "ms a class", "peak, MB", "held between steps, MB", "working, MB")
_POOL = 64
"""Real images kept for each class; a batch of more takes each several times at equal cost."""


def images_of(setting: Setting) -> Dataset:
    """Random images."""
    return noise_dataset(setting.size, min(setting.real_batch, _POOL), setting.classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """The curves: each varies one field of `base`."""

    base: Setting
    classes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    ipcs: tuple[int, ...] = (1, 10, 50)
    sizes: tuple[int, ...] = (32, 64, 128)
    ranks: tuple[int, ...] = ()
    turns: int = 5
    """Counted steps of a point, each time it is measured."""
    rounds: int
    """Measurements of every point: a machine's slow minutes do not fall on one alone."""

    def curves(self) -> dict[str, list[Setting]]:
        """The points of every curve but the ranks'."""
        few = dataclasses.replace(self.base, classes=self.classes[0])
        varied: dict[str, tuple[Setting, tuple[Any, ...]]] = {
            "classes": (self.base, self.classes),
            "ipc": (few, self.ipcs),
            "size": (few, self.sizes),
        }
        return {
            name: [dataclasses.replace(base, **{name: value}) for value in values]
            for name, (base, values) in varied.items()
        }


PLANS = {
    "cuda": Curves(
        base=Setting(classes=100, ipc=50, size=64, real_batch=256, network="convnet"),
        ipcs=(1, 10, 50, 100),
        ranks=(1, 2, 4, 8),
        rounds=1,
    ),
    "cpu": Curves(
        base=Setting(classes=100, ipc=5, size=32, real_batch=10, network="convnet-w16"),
        ranks=(1, 2),
        rounds=5,
    ),
    "smoke": Curves(
        base=Setting(classes=4, ipc=2, size=8, real_batch=4, network="convnet-w8"),
        classes=(2, 4),
        ipcs=(1,),
        sizes=(16,),
        turns=2,
        rounds=2,
    ),
}


def measure(setting: Setting, device: torch.device, turns: int, clock: str) -> dict[str, Any]:
    """Seconds and bytes of a step at one setting."""
    device = pick_device(device.type)  # readies this process
    dataset = images_of(setting)
    # Class after class the same start: drawing a gigabyte of noise would take longer than the
    # steps.
    shape, generator = (setting.ipc, 3, setting.size, setting.size), torch.Generator()
    start = torch.randn(shape, generator=generator.manual_seed(1)).repeat(setting.classes, 1, 1, 1)
    one = dataclasses.replace(setting, classes=1, ipc=1, real_batch=1)
    # Libraries load at their first use.
    _engine(one, images_of(one), start[:1], device, compiled=False).step(0)
    reset_peak_memory(device)
    before = peak_memory(device)
    # Compiling on a CPU takes longer than all the steps at a reduced scale.
    engine = _engine(setting, dataset, start, device, compiled=device.type == "cuda")
    times = [seconds(partial(engine.step, step), device, clock) for step in range(2 + turns)][2:]
    held = engine.images.nbytes + engine.momentum.nbytes
    if device.type == "cuda":
        held += dataset.train.pixels.nbytes  # on a CPU the engine reads the dataset's own
    peak = peak_memory(device)
    return dataclasses.asdict(setting) | {
        "chunk": len(engine.chunks[0]),
        "step_s": median(times),
        "step_s_all": times,
        "peak_bytes": peak,
        "held_bytes": held,
        "working_bytes": peak - before - held,
    }


def _engine(
    setting: Setting, dataset: Dataset, start: torch.Tensor, device: torch.device, *, compiled: bool
) -> Engine:
    """DataDAM at a setting."""
    recipe, preprocess = setting.recipe(dataset), Standardize.fit(dataset.train.pixels[:_POOL])
    return Engine(dataset, recipe, preprocess, start, seed=0, device=device, compiled=compiled)


def measure_ranks(setting: Setting, ranks: int, device: torch.device, turns: int) -> dict[str, Any]:
    """Seconds of a step of `ranks` processes that share the classes, a chunk for each."""
    import numpy as np

    short, long = 2, 2 + turns
    with tempfile.TemporaryDirectory() as folder:
        images = images_of(setting).train
        pixels, labels = images.pixels.movedim(1, -1).numpy(), images.labels.numpy()
        train: dict[str, Any] = {"train_images": pixels, "train_labels": labels}
        test: dict[str, Any] = {"test_images": pixels[:1], "test_labels": labels[:1]}
        np.savez(f"{folder}/noise.npz", **train, **test)
        taken = {}
        for steps in (short, long):
            words = [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", ranks, "cli.py", "condense", "--recipe", "paper",
                "--dataset", f"{folder}/noise.npz", "--ipc", setting.ipc,
                "--real-batch", setting.real_batch, "--chunk", 1,
                "--network", setting.network, "--steps", steps, "--device", device.type,
                "--out", f"{folder}/{steps}",
            ]  # fmt: skip
            # One thread for each rank, also for a single one, which torchrun would give all cores.
            place: Any = {
                "cwd": Path(__file__).parents[1],
                "env": os.environ | {"OMP_NUM_THREADS": "1"},
            }
            done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **place)
            if done.returncode:
                raise click.ClickException(f"{ranks} ranks failed:\n{done.stderr[-2000:]}")
            taken[steps] = read_json(Path(folder, str(steps), "run.json"))["progress"]["seconds"]
    step_s = (taken[long] - taken[short]) / turns
    return dataclasses.asdict(setting) | {"ranks": ranks, "step_s": step_s}


def combined(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One point from what was measured of it: the median time, the most memory."""
    most = {field: max(one[field] for one in rounds) for field in MEMORY if field in rounds[0]}
    return rounds[0] | {
        "step_s": median(one["step_s"] for one in rounds),
        "step_s_rounds": [one["step_s"] for one in rounds],
        **most,
    }


def verdict(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether, over the classes, the cost is a line and the working memory flat.

    With the fit, the deviations and the slope of the logarithms.

    The line is `fixed + per_class * classes`, fitted by least squares of the relative deviations;
    no step is without a fixed part (drawing the network), which the slope of the logarithms sees
    and the line does not.
    """
    import numpy as np

    classes, times, working = (
        np.array([point[name] for point in points])
        for name in ("classes", "step_s", "working_bytes")
    )
    per_class, fixed = np.polyfit(classes, times, 1, w=1 / times)
    off = float(np.abs((fixed + per_class * classes) / times - 1).max())
    spread = float(np.abs(working / np.median(working) - 1).max())
    return {
        "fixed_s": float(fixed),
        "per_class_s": float(per_class),
        "largest_deviation": off,
        "log_slope": float(np.polyfit(np.log(classes), np.log(times), 1)[0]),
        "linear": off <= TOLERANCE,
        "working_spread": spread,
        "flat": spread <= TOLERANCE,
    }


def table(curves: dict[str, list[dict[str, Any]]], fit: dict[str, Any] | None) -> list[str]:
    """The curves as Markdown, and the verdict in words."""
    lines = []
    if fit:
        line = f"{fit['fixed_s']:.4f} s + {1000 * fit['per_class_s']:.3f} ms a class"
        close = "within" if fit["linear"] else "beyond"
        flat = "flat" if fit["flat"] else "not flat"
        lines = [
            f"Over the classes a step takes {line}; the largest deviation from it is "
            f"{fit['largest_deviation']:.1%} "
            f"({close} {TOLERANCE:.0%}), the slope of the logarithms {fit['log_slope']:.2f}. "
            "The working memory stays "
            f"within {fit['working_spread']:.1%} of its median ({flat}).",
            "",
        ]
    for name, points in curves.items():
        lines += [*markdown((name, *HEADERS), [_row(name, point) for point in points]), ""]
    return lines


def _row(curve: str, point: dict[str, Any]) -> list[Any]:
    """The cells of a point, by the name of its curve and `HEADERS`."""
    fields = [field.name for field in dataclasses.fields(Setting)]
    setting = Setting(**{field: point[field] for field in fields})
    a_class = f"{1000 * point['step_s'] / setting.classes:.3f}"
    memory = [f"{point[field] / 1e6:.0f}" if field in point else "" for field in MEMORY]
    return [point[curve], setting, f"{point['step_s']:.4f}", a_class, *memory]


def draw(path: Path, curves: dict[str, list[dict[str, Any]]]) -> None:
    """A column for each curve: time above, memory below."""
    figure, both = panels(3.4 * len(curves), 5.2, rows=2, columns=len(curves))
    for (name, points), time, memory in zip(curves.items(), *both, strict=True):
        x = [point[name] for point in points]
        time.plot(x, [point["step_s"] for point in points], "o-", color="#5b7fb8")
        time.set(xscale="log", yscale="log", ylabel="seconds a step", title=f"against {name}")
        for label, color in (("peak", "#5b7fb8"), ("working", "#c9803a")):
            if all(f"{label}_bytes" in point for point in points):
                used = [point[f"{label}_bytes"] / 1e6 for point in points]
                memory.plot(x, used, "o-", label=label, color=color)
        if memory.lines:
            memory.set(xscale="log", xlabel=name, ylabel="MB", ylim=(0, None))
            memory.legend()
        else:
            memory.set_axis_off()
        for axes in (time, memory):
            axes.set_xticks(x, list(map(str, x)))
            axes.xaxis.minorticks_off()
    save_figure(figure, path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where; `cpu`: at a reduced scale."""
    plan: Literal["cuda", "cpu", "smoke"] | None = None
    """Scale of the curves; the device's unless given."""
    curve: tuple[Curve, ...] = get_args(Curve)
    """Draw these alone; may be given again."""
    clock: Clock = "wall"
    """`cpu`: on a busy machine."""
    name: str = "scale"
    """Name of the result files."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Draw time and memory of a step against classes, IPC, resolution and ranks."""
    place, chosen = pick_device(asked.device), PLANS[asked.plan or asked.device]
    conditions, measured = results.conditions(), dict[tuple[str, int], list[dict[str, Any]]]()
    gpus = torch.cuda.device_count() if place.type == "cuda" else max(chosen.ranks, default=0)
    tasks: list[tuple[str, Setting, int]]
    tasks = [(curve, at, 0) for curve, points in chosen.curves().items() for at in points]
    tasks += [("ranks", chosen.base, ranks) for ranks in chosen.ranks if ranks <= gpus]
    for curve, at, ranks in [task for task in tasks if task[0] in asked.curve] * chosen.rounds:
        if ranks:
            point = measure_ranks(at, ranks, place, chosen.turns)
        else:
            point = apart(measure, at, place, chosen.turns, asked.clock)
        measured.setdefault((curve, point[curve]), []).append(point)
        click.echo(f"{curve} {point[curve]}: {point['step_s']:.4f} s a step")
        curves: dict[str, list[dict[str, Any]]] = {}
        for (name, _), rounds in measured.items():
            curves.setdefault(name, []).append(combined(rounds))
        whole = len(curves.get("classes", ())) == len(chosen.classes)
        fit = verdict(curves["classes"]) if whole else None
        document = {"conditions": conditions, "verdict": fit, "curves": curves}
        # After every point: a run cut short has shown something.
        results.write(asked.name, document, table(curves, fit))
        draw(results.FOLDER / f"{asked.name}.png", curves)


if __name__ == "__main__":
    guard.run(main)
