"""Where the time of a condensation step goes.

In the published loop and in the engine, against the floor.

The shares are a profiler's: of each operation's own time, so that none is counted twice. They are
scaled to the median time of steps that nobody watched. The floor, by the stricter matrix rate, is
that of `benchmarks.step`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import results
from benchmarks.options import Benchmark, Clock
from benchmarks.step import Setting, floor, loops, rates_of, seconds
from condense.command import guard
from condense.device import pick_device
from condense.report.figures import panels, save_figure
from condense.report.tables import markdown, markdown_row

PARTS = {
    "convolutions": ("convolution", "conv2d", "cudnn", "implicit_gemm"),
    "norm, activation, attention, pooling": (
        "CompiledFxGraph", "triton", "group_norm", "GroupNorm", "batch_norm", "relu", "threshold",
        "clamp", "avg_pool",
        "pow", "abs", "vector_norm",
    ),
}  # fmt: skip
"""Part of a step -> what its operations have in their names; any other is of the `REST`."""
REST = "drawing, augmenting, moving"
COLORS = ("#5b7fb8", "#c9803a", "#9a9a9a")


def part_of(operation: str) -> str:
    """The part of a step that an operation of that name belongs to."""
    return next(
        (part for part, words in PARTS.items() if any(word in operation for word in words)), REST
    )


def breakdown(
    step: Callable[[int], Any], turns: int, device: torch.device, clock: str = "wall"
) -> dict[str, float]:
    """Seconds of each part of a step."""
    for number in range(2):
        step(number)
    whole = median(seconds(partial(step, number), device, clock) for number in range(2, 2 + turns))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        step(2 + turns)
    spent = dict.fromkeys([*PARTS, REST], 0.0)
    for event in seen.key_averages():
        spent[part_of(event.key)] += (
            event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        )
    return {part: whole * taken / sum(spent.values()) for part, taken in spent.items()}


def draw(path: Path, records: list[dict[str, Any]]) -> None:
    """Left both loops on one scale, right the engine alone, with its floor."""
    figure, both = panels(9, 0.9 + 0.45 * len(records), columns=2, grid="")
    for axes, shown, title in zip(
        both[0],
        (records, [one for one in records if one["floor_s"]]),
        ("seconds a step", "the engine alone"),
        strict=True,
    ):
        for row, one in enumerate(shown):
            left = 0.0
            for (part, taken), color in zip(one["parts"].items(), COLORS, strict=True):
                axes.barh(row, taken, left=left, color=color, label=part if row == 0 else None)
                left += taken
            if one["floor_s"]:
                axes.plot(
                    [one["floor_s"]] * 2,
                    [row - 0.45, row + 0.45],
                    color="black",
                    label="floor" if row == 0 else None,
                )
        axes.set_yticks(range(len(shown)), [f"{one['loop']}, IPC {one['ipc']}" for one in shown])
        axes.invert_yaxis()
        axes.set(title=title, xlim=(0, None))
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is split into parts."""

    ipc: tuple[int, ...] = (10, 50)
    """Synthetic images per class; may be given again."""
    real_batch: int = 256
    """Real images of each class in a step."""
    size: int = 32
    """Side of the images in pixels."""
    turns: int = 2
    """Counted steps of each loop."""
    clock: Clock = "wall"
    """`cpu`: on a busy machine."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    name: str = "breakdown"
    """Name of the result files."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Split a step of the published loop and of the engine into its parts (instance norm)."""
    place = pick_device(asked.device)
    _, strict = rates_of(place, asked.clock)
    records: list[dict[str, Any]] = []
    for ipc in asked.ipc:
        setting = Setting(size=asked.size, ipc=ipc, real_batch=asked.real_batch)
        for loop, each in loops(setting, place).items():
            parts = breakdown(each.step, asked.turns, place, asked.clock)
            lowest = floor(setting, strict) if loop == "engine" else None
            records.append({"loop": loop, "ipc": ipc, "parts": parts, "floor_s": lowest})
            click.echo(markdown_row(_row(records[-1])))
    lines = markdown(["loop", "IPC", *PARTS, REST, "floor"], map(_row, records))
    results.write(asked.name, {"rates": strict, "records": records}, lines)
    draw(results.FOLDER / f"{asked.name}.png", records)


def _row(record: dict[str, Any]) -> list[Any]:
    """The cells of a record."""
    taken = [*record["parts"].values(), record["floor_s"]]
    return [
        record["loop"],
        record["ipc"],
        *(f"{one:.3f} s" if one is not None else "" for one in taken),
    ]


if __name__ == "__main__":
    guard.run(main)
