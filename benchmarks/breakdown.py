"""Where the time of a condensation step goes.

In the published loop and in the engine, against the floor.

The shares are a profiler's: of each operation's own time, so that none is counted twice. They are
scaled to the median time of steps that nobody watched. The floor, by the stricter matrix rate, is
that of `benchmarks.step`.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import results
from benchmarks.step import CLOCKS, floor, loops, rates_of, seconds
from condense.device import pick_device
from condense.files import write_bytes

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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.45 * len(records)), layout="constrained", dpi=150)
    for axes, shown, title in zip(
        figure.subplots(1, 2),
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
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[1].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


@click.command()
@click.option("--ipc", "ipcs", type=int, multiple=True, default=[10, 50], show_default=True)
@click.option("--real-batch", default=256, show_default=True)
@click.option("--size", default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--turns", default=2, show_default=True, help="Counted steps of each loop.")
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(list(CLOCKS)),
    help="cpu: on a busy machine.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--name", default="breakdown", show_default=True, help="Name of the result files.")
def main(
    ipcs: tuple[int, ...],
    real_batch: int,
    size: int,
    turns: int,
    clock: str,
    device: str,
    name: str,
) -> None:
    """Split a step of the published loop and of the engine into its parts (instance norm)."""
    place = pick_device(device)
    _, strict = rates_of(place, clock)
    records: list[dict[str, Any]] = []
    lines = [f"| loop | IPC | {' | '.join([*PARTS, REST])} | floor |", "|---|---|---|---|---|---|"]
    for ipc in ipcs:
        for loop, each in loops("instance", size, ipc, real_batch, place).items():
            parts = breakdown(each.step, turns, place, clock)
            lowest = floor("convnet", size, ipc, real_batch, strict) if loop == "engine" else None
            records.append({"loop": loop, "ipc": ipc, "parts": parts, "floor_s": lowest})
            cells = [f"{taken:.3f} s" for taken in parts.values()] + [
                f"{lowest:.3f} s" if lowest else ""
            ]
            lines.append(f"| {loop} | {ipc} | {' | '.join(cells)} |")
            click.echo(lines[-1])
    results.write(
        name, {"conditions": results.conditions(), "rates": strict, "records": records}, lines
    )
    draw(results.FOLDER / f"{name}.png", records)


if __name__ == "__main__":
    main()
