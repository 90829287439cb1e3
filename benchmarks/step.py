"""One condensation step: the published loop, plainly, against the engine; and the floor.

Both are measured turn by turn in one process.

The floor is the larger of operations over the matrix rate and bytes over the copy rate, both
measured in this run. Operations: a forward pass of the real images, and a forward pass and the
gradient towards the input of the synthetic ones, each at the rate of the type it is computed in.
Bytes: every convolution's output written and read once, since no norm can be applied before its map
is complete; thrice for synthetic images, whose maps and gradients are needed too.

The matrix rate is that of a product of large square matrices. Where the library is faster at
convolutions, this understates what the machine can do, and a step can be below the floor:
`strict_floor_s` takes the rate of the faster of the two.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import results
from benchmarks.reference import Reference
from condense.data.images import Dataset, Images
from condense.data.preprocess import make_preprocess
from condense.device import fast_bfloat16, peak_memory, pick_device, reset_peak_memory
from condense.files import write_json
from condense.methods.recipes import recipe_for
from condense.networks.accelerate import LAYOUT
from condense.networks.build import build
from condense.runs.engine import Engine

CLASSES = 10
NETWORKS = {"instance": "convnet", "batch": "convnet-batch"}
"""By the norm of the ConvNet."""
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` is what this process had of the processor: for a machine that others use as well."""


def noise_dataset(size: int, per_class: int, classes: int = CLASSES) -> Dataset:
    """Random pixels: a step costs the same whatever the images show."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (classes * per_class, 3, size, size), dtype=torch.uint8, generator=generator
    )
    images = Images(
        pixels, torch.arange(classes).repeat_interleave(per_class), tuple(map(str, range(classes)))
    )
    return Dataset("noise", images, images)


def seconds(run: Callable[[], Any], device: torch.device, clock: str = "wall") -> float:
    """Time of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = CLOCKS[clock]()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[clock]() - began


@torch.no_grad()
def matrix_rates(dtype: torch.dtype, device: torch.device, clock: str) -> tuple[float, float]:
    """The best operations per second, of a large matrix product and of a large convolution."""
    side, batch = (4096, 1024) if device.type == "cuda" else (2048, 64)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    images = (
        torch.randn(batch, 128, 16, 16, device=device)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    kernel = (
        torch.randn(128, 128, 3, 3, device=device)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    product = min(seconds(lambda: a @ b, device, clock) for _ in range(10))
    convolution = min(
        seconds(lambda: F.conv2d(images, kernel, padding=1), device, clock) for _ in range(20)
    )
    return 2 * side**3 / product, 2 * 9 * 128 * 128 * 256 * batch / convolution


def copy_rate(device: torch.device, clock: str) -> float:
    """The best of ten copies of 256 MB, in bytes read and written per second."""
    source = torch.zeros(64 * 2**20, device=device)
    target = torch.empty_like(source)
    return (
        2
        * source.nbytes
        / min(seconds(lambda: target.copy_(source), device, clock) for _ in range(10))
    )


def floor(network: str, size: int, ipc: int, real_batch: int, rates: dict[str, float]) -> float:
    """Seconds that no step at these precisions can go below, by the module's definition."""
    with torch.device("meta"):
        model, image = (
            build(network, (3, size, size), CLASSES).to("meta"),
            torch.zeros(1, 3, size, size),
        )
    with FlopCounterMode(display=False) as counter:
        maps, _ = model.observe(image)
    operations, values = counter.get_total_flops(), sum(one.numel() for one in maps)
    real, synthetic = CLASSES * real_batch, CLASSES * ipc
    arithmetic = real * operations / rates["real"] + synthetic * 2 * operations / rates["float32"]
    traffic = 2 * values * (real * rates["real_bytes"] + synthetic * 3 * 4) / rates["copy"]
    return max(arithmetic, traffic)


def rates_of(
    device: torch.device, clock: str = "wall"
) -> tuple[dict[str, float], dict[str, float]]:
    """What `floor` needs of a device: with the rate of matrix products, and with the best one."""
    half = fast_bfloat16(device)
    memory = {"copy": copy_rate(device, clock), "real_bytes": 2 if half else 4}
    both = {
        "float32": matrix_rates(torch.float32, device, clock),
        "real": matrix_rates(torch.bfloat16 if half else torch.float32, device, clock),
    }
    of_products = memory | {kind: product for kind, (product, _) in both.items()}
    return of_products, memory | {kind: max(pair) for kind, pair in both.items()}


def loops(
    norm: str, size: int, ipc: int, real_batch: int, device: torch.device
) -> dict[str, Reference | Engine]:
    """The published loop and the engine on the same random images."""
    dataset = noise_dataset(size, per_class=max(real_batch, ipc))
    recipe = recipe_for("paper", dataset.name, dataset.shape, ipc).override(
        {"network": NETWORKS[norm], "real_batch": real_batch}
    )
    preprocess = make_preprocess("standard", dataset)
    start = torch.randn(CLASSES * ipc, 3, size, size, generator=torch.Generator().manual_seed(1))
    return {
        "reference": Reference(dataset, recipe, preprocess, start, norm, device),
        "engine": Engine(dataset, recipe, preprocess, start, seed=0, device=device, compiled=True),
    }


def measure(
    norm: str, size: int, ipc: int, real_batch: int, turns: int, device: torch.device, clock: str
) -> dict[str, Any]:
    """Medians, the ratio with its interval (Student's t on logarithms), and the floor."""
    compared = loops(norm, size, ipc, real_batch, device)
    compared["engine"].step(0)  # compiles
    peaks: dict[str, int] = {}
    for name in (
        "engine",
        "reference",
    ):  # also to warm up. In this order: on a CPU part of what is freed stays and is counted
        reset_peak_memory(device)
        compared[name].step(1)
        peaks[name] = peak_memory(device)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for turn in range(turns):
        for name, loop in compared.items():
            times[name].append(seconds(partial(loop.step, turn + 2), device, clock))
    medians = {name: float(torch.tensor(taken).quantile(0.5)) for name, taken in times.items()}
    logs = torch.log(torch.tensor(times["reference"]) / torch.tensor(times["engine"])).numpy()
    low, high = stats.t.interval(0.95, len(logs) - 1, logs.mean(), max(stats.sem(logs), 1e-12))
    rates, strict = rates_of(device, clock)
    lowest, strictest = (
        floor(NETWORKS[norm], size, ipc, real_batch, each) for each in (rates, strict)
    )
    return {
        "norm": norm,
        "size": size,
        "ipc": ipc,
        "real_batch": real_batch,
        "classes": CLASSES,
        "turns": turns,
        "reference_s": medians["reference"],
        "engine_s": medians["engine"],
        "ratio": medians["reference"] / medians["engine"],
        "ratio_ci95": [float(torch.tensor(low).exp()), float(torch.tensor(high).exp())],
        "floor_s": lowest,
        "times_the_floor": medians["engine"] / lowest,
        "strict_floor_s": strictest,
        "times_the_strict_floor": medians["engine"] / strictest,
        "peak_bytes": peaks["engine"],
        "reference_peak_bytes": peaks["reference"],
        "rates": rates,
        "strict_rates": strict,
    }


@click.command()
@click.option("--ipc", "ipcs", type=int, multiple=True, default=[1, 10, 50], show_default=True)
@click.option(
    "--real-batch", "real_batches", type=int, multiple=True, default=[64, 256], show_default=True
)
@click.option(
    "--norm", "norms", multiple=True, type=click.Choice(list(NETWORKS)), default=list(NETWORKS)
)
@click.option(
    "--size",
    "sizes",
    type=int,
    multiple=True,
    default=[32],
    show_default=True,
    help="Side of the images in pixels.",
)
@click.option(
    "--layout",
    type=click.Choice(list(LAYOUTS)),
    help="Order of the engine's maps in memory.  [default: the device's]",
)
@click.option("--turns", default=5, show_default=True, help="Counted steps of each loop.")
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(list(CLOCKS)),
    help="cpu: on a busy machine.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="File for the records.")
@click.option("--name", help="Also write results/NAME.json and .md.")
def main(
    ipcs: tuple[int, ...],
    real_batches: tuple[int, ...],
    norms: tuple[str, ...],
    sizes: tuple[int, ...],
    layout: str | None,
    turns: int,
    clock: str,
    device: str,
    path: Path | None,
    name: str | None,
) -> None:
    """Time a step of the published loop and of the engine, turn by turn."""
    place, records = pick_device(device), []
    if layout:
        LAYOUT[place.type] = LAYOUTS[layout]
    lines = [
        "| norm | px | IPC | real | reference, s | engine, s | ratio (95 %) | floor, s | x floor "
        "| x strict floor "
        "| peak, MB (reference) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    settings = [(n, s, i, b) for n in norms for s in sizes for i in ipcs for b in real_batches]
    for norm, size, ipc, real_batch in settings:
        record = measure(norm, size, ipc, real_batch, turns, place, clock)
        records.append(record)
        low, high = record["ratio_ci95"]
        peak, reference_peak = (
            f"{record[name] / 1e6:.0f}" for name in ("peak_bytes", "reference_peak_bytes")
        )
        lines.append(
            f"| {norm} | {size} | {ipc} | {real_batch} | {record['reference_s']:.3f} | "
            f"{record['engine_s']:.4f} "
            f"| {record['ratio']:.1f} ({low:.1f} to {high:.1f}) | {record['floor_s']:.4f} | "
            f"{record['times_the_floor']:.2f} "
            f"| {record['times_the_strict_floor']:.2f} | {peak} ({reference_peak}) |"
        )
        click.echo(lines[-1])
        if path:
            write_json(path, records)
        if name:
            results.write(name, {"conditions": results.conditions(), "records": records}, lines)


if __name__ == "__main__":
    main()
