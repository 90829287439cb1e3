"""One condensation step: the published loop, plainly, against the engine; and the floor.

Both are measured turn by turn in one process.

The floor is the larger of operations over the matrix rate and bytes over the copy rate, both
measured in this run. Operations: a forward pass of the real images, and a forward pass and the
gradient towards the input of the synthetic ones, at the rate of the type they are computed in.
Bytes: every convolution's output written and read once, since no norm can be applied before its map
is complete; thrice for synthetic images, whose maps and gradients are needed too.

The matrix rate is that of a product of large square matrices. Where the library is faster at
convolutions, this understates what the machine can do, and a step can be below the floor:
`strict_floor_s` takes the rate of the faster of the two.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import results
from benchmarks.options import Benchmark, Clock
from benchmarks.reference import Reference
from condense.command import guard
from condense.data.images import Dataset, Images
from condense.data.preprocess import make_preprocess
from condense.device import fast_bfloat16, peak_memory, pick_device, reset_peak_memory
from condense.methods.base import Recipe
from condense.methods.recipes import recipe_for
from condense.networks.accelerate import LAYOUT
from condense.networks.build import build
from condense.report.tables import markdown, markdown_row
from condense.runs.engine import Engine
from condense.writing import write_json

CLASSES = 10
NETWORKS = {"instance": "convnet", "batch": "convnet-batch"}
"""By the norm of the ConvNet."""
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADERS = ["norm", "px", "IPC", "real", "reference, s", "engine, s", "ratio (95 %)", "floor, s"]
HEADERS += ["x floor", "x strict floor", "peak, MB (reference)"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a step is timed at."""

    classes: int = CLASSES
    ipc: int
    size: int
    """Side of the images in pixels."""
    real_batch: int
    network: str = "convnet"

    def __str__(self) -> str:
        images = f"{self.classes} classes, IPC {self.ipc}, {self.size} px, {self.real_batch} real"
        return f"{images}, {self.network}"

    @property
    def norm(self) -> str:
        """The norm of the ConvNet, where it is one of `NETWORKS`."""
        return next(norm for norm, network in NETWORKS.items() if network == self.network)

    def recipe(self, dataset: Dataset) -> Recipe:
        """DataDAM at this setting."""
        recipe = recipe_for("paper", dataset.name, dataset.shape, self.ipc)
        return recipe.override({"network": self.network, "real_batch": self.real_batch})


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


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a process of its own, whose memory nothing earlier has grown."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


@torch.no_grad()
def matrix_rates(dtype: torch.dtype, device: torch.device, clock: str) -> tuple[float, float]:
    """The best operations per second, of a large matrix product and of a large convolution."""
    side, batch = (4096, 1024) if device.type == "cuda" else (2048, 64)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    a, b = noise(side, side), noise(side, side)
    images, kernel = (
        noise(*shape).contiguous(memory_format=torch.channels_last)
        for shape in ((batch, 128, 16, 16), (128, 128, 3, 3))
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
    taken = min(seconds(lambda: target.copy_(source), device, clock) for _ in range(10))
    return 2 * source.nbytes / taken


def floor(setting: Setting, rates: dict[str, float]) -> float:
    """Seconds that no step at these precisions can go below, by the module's definition."""
    shape = (3, setting.size, setting.size)
    with torch.device("meta"):
        model, image = build(setting.network, shape, CLASSES).to("meta"), torch.zeros(1, *shape)
    with FlopCounterMode(display=False) as counter:
        maps, _ = model.observe(image)
    operations, values = counter.get_total_flops(), sum(one.numel() for one in maps)
    real, synthetic = CLASSES * setting.real_batch, CLASSES * setting.ipc
    arithmetic = (real + synthetic * 2) * operations / rates["network"]
    traffic = 2 * values * (real + synthetic * 3) * rates["network_bytes"] / rates["copy"]
    return max(arithmetic, traffic)


def rates_of(
    device: torch.device, clock: str = "wall"
) -> tuple[dict[str, float], dict[str, float]]:
    """What `floor` needs of a device: with the rate of matrix products, and with the best one."""
    half = fast_bfloat16(device)
    memory = {"copy": copy_rate(device, clock), "network_bytes": 2 if half else 4}
    both = {
        "float32": matrix_rates(torch.float32, device, clock),
        "network": matrix_rates(torch.bfloat16 if half else torch.float32, device, clock),
    }
    of_products = memory | {kind: product for kind, (product, _) in both.items()}
    return of_products, memory | {kind: max(pair) for kind, pair in both.items()}


def loops(setting: Setting, device: torch.device) -> dict[str, Reference | Engine]:
    """The published loop and the engine on the same random images."""
    size, ipc = setting.size, setting.ipc
    dataset = noise_dataset(size, per_class=max(setting.real_batch, ipc))
    recipe, preprocess = setting.recipe(dataset), make_preprocess("standard", dataset)
    start = torch.randn(CLASSES * ipc, 3, size, size, generator=torch.Generator().manual_seed(1))
    return {
        "reference": Reference(dataset, recipe, preprocess, start, setting.norm, device),
        "engine": Engine(dataset, recipe, preprocess, start, seed=0, device=device, compiled=True),
    }


def peak_of(loop: Reference | Engine, device: torch.device) -> int:
    """The most memory, in bytes, that two steps of a loop take; the first one compiles.

    On a GPU both count, since a graph takes its memory when it is captured, and replaying it takes
    none. On a CPU the second step counts, since the compiler works in the memory of this process.
    """
    reset_peak_memory(device)
    loop.step(0)
    if device.type == "cpu":
        reset_peak_memory(device)
    loop.step(1)
    return peak_memory(device)


def measure(setting: Setting, turns: int, device: torch.device, clock: str) -> dict[str, Any]:
    """Medians, the ratio with its interval (Student's t on logarithms), and the floor."""
    compared = loops(setting, device)
    # In this order: on a CPU part of what is freed stays and is counted.
    peaks = {name: peak_of(compared[name], device) for name in ("engine", "reference")}
    times: dict[str, list[float]] = {name: [] for name in compared}
    for turn in range(turns):
        for name, loop in compared.items():
            times[name].append(seconds(partial(loop.step, turn + 2), device, clock))
    medians = {name: median(taken) for name, taken in times.items()}
    rates, strict = rates_of(device, clock)
    lowest, strictest = floor(setting, rates), floor(setting, strict)
    return asdict(setting) | {
        "norm": setting.norm,
        "turns": turns,
        "reference_s": medians["reference"],
        "engine_s": medians["engine"],
        **ratio(times["reference"], times["engine"]),
        "floor_s": lowest,
        "times_the_floor": medians["engine"] / lowest,
        "strict_floor_s": strictest,
        "times_the_strict_floor": medians["engine"] / strictest,
        "peak_bytes": peaks["engine"],
        "reference_peak_bytes": peaks["reference"],
        "rates": rates,
        "strict_rates": strict,
    }


def ratio(slower: list[float], faster: list[float]) -> dict[str, Any]:
    """The `ratio` of the medians of times taken turn by turn, and its interval `ratio_ci95`.

    The interval is Student's t on the logarithms of the ratios of the turns.

    >>> ratio([2.0, 2.0], [1.0, 1.0])["ratio"]
    2.0
    """
    logs = np.log(np.array(slower) / np.array(faster))
    ends = stats.t.interval(0.95, len(logs) - 1, logs.mean(), max(stats.sem(logs), 1e-12))
    return {"ratio": median(slower) / median(faster), "ratio_ci95": np.exp(ends).tolist()}


def _row(of: dict[str, Any]) -> list[Any]:
    """The cells of a record, by `HEADERS`."""
    low, high = of["ratio_ci95"]
    return [
        *(of[name] for name in ("norm", "size", "ipc", "real_batch")),
        f"{of['reference_s']:.3f}",
        f"{of['engine_s']:.4f}",
        f"{of['ratio']:.1f} ({low:.1f} to {high:.1f})",
        f"{of['floor_s']:.4f}",
        f"{of['times_the_floor']:.2f}",
        f"{of['times_the_strict_floor']:.2f}",
        f"{of['peak_bytes'] / 1e6:.0f} ({of['reference_peak_bytes'] / 1e6:.0f})",
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is timed. Every setting of the first four is."""

    norm: tuple[Literal["instance", "batch"], ...] = ("instance", "batch")
    """Norm of the ConvNet; may be given again, as the next three."""
    size: tuple[int, ...] = (32,)
    """Side of the images in pixels."""
    ipc: tuple[int, ...] = (1, 10, 50)
    """Synthetic images per class."""
    real_batch: tuple[int, ...] = (64, 256)
    """Real images of each class in a step."""
    layout: Literal["channels-last", "contiguous"] | None = None
    """Order of the engine's maps in memory; the device's unless given."""
    turns: int = 5
    """Counted steps of each loop."""
    clock: Clock = "wall"
    """`cpu`: on a busy machine."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    json: Path | None = None
    """File for the records."""
    name: str | None = None
    """Also write results/NAME.json and .md."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Time a step of the published loop and of the engine, turn by turn."""
    place, records = pick_device(asked.device), []
    if asked.layout:
        LAYOUT[place.type] = LAYOUTS[asked.layout]
    click.echo("\n".join(markdown(HEADERS, [])))
    for norm, size, ipc, real in product(asked.norm, asked.size, asked.ipc, asked.real_batch):
        setting = Setting(network=NETWORKS[norm], size=size, ipc=ipc, real_batch=real)
        records.append(measure(setting, asked.turns, place, asked.clock))
        click.echo(markdown_row(_row(records[-1])))
        if asked.json:
            write_json(asked.json, records)
        if asked.name:
            results.write(asked.name, {"records": records}, markdown(HEADERS, map(_row, records)))


if __name__ == "__main__":
    guard.run(main)
