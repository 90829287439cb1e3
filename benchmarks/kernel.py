"""What lies between two convolutions, on a GPU: the compiler's code against the kernels.

Both compute `condense.networks.fused`, from the same maps in bfloat16 and channels-last: forward
alone as for real images, and with the gradient of the map as for synthetic ones. `least` is the
time of the bytes that have to be read and written, at the copy rate: the map and `pooled` once, and
with the gradient twice more the map and once more `pooled`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import results
from benchmarks.options import Benchmark
from benchmarks.step import copy_rate
from condense.command import guard
from condense.device import pick_device
from condense.networks.base import InstanceNorm, widen
from condense.report.tables import markdown, markdown_row

CHANNELS, POWER = 128, 4.0
HEADERS = ["px", "images", "gradient", "compiled formula, ms", "kernels, ms", "least, ms"]

Block = Callable[[InstanceNorm, Tensor], tuple[Tensor, Tensor]]
"""Maps the output of a convolution to the pooled map and the attention."""


def formula(norm: InstanceNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block by its definition."""
    y = norm(x).relu()
    return functional.avg_pool2d(y, 2), widen(y).pow(POWER).sum(dim=1)


def kernels(norm: InstanceNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block by the kernels."""
    from condense.networks.fused import norm_relu_pool  # needs Triton

    return norm_relu_pool(x, norm.weight, norm.bias, eps=norm.eps, power=POWER)


def milliseconds(block: Block, norm: InstanceNorm, x: Tensor) -> float:
    """The median time of one call, compiled, and of its gradient if `x` wants one."""
    from triton.testing import do_bench

    run = torch.compile(partial(block, norm), dynamic=False)

    def once() -> None:
        pooled, attention = run(x)
        if x.requires_grad:
            towards = [torch.ones_like(pooled), torch.ones_like(attention)]
            torch.autograd.grad([pooled, attention], x, towards)

    return do_bench(once, return_mode="median")


def measure(side: int, images: int, gradient: bool, device: torch.device) -> dict[str, Any]:
    """The times of both blocks, and the least one."""
    norm = InstanceNorm(CHANNELS).to(device).requires_grad_(False)
    x = torch.randn(images, CHANNELS, side, side, device=device).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(gradient)
    passes = 1.25 + gradient * 2.25
    return {
        "side": side,
        "images": images,
        "gradient": gradient,
        "formula_ms": milliseconds(formula, norm, x),
        "kernels_ms": milliseconds(kernels, norm, x),
        "least_ms": 1000 * passes * x.nbytes / copy_rate(device, "wall"),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is timed."""

    size: tuple[int, ...] = (32, 16, 8, 64)
    """Side of the maps in pixels; may be given again."""
    images: int = 1280
    """Real images in a block; of synthetic ones a fifth of them."""
    name: str | None = None
    """Also write results/NAME.json and .md."""


@click.command(cls=Benchmark, asked=Asked)
def main(asked: Asked) -> None:
    """Time what lies between two convolutions: the compiler's code against the kernels (GPU)."""
    place, records = pick_device("cuda"), []
    click.echo("\n".join(markdown(HEADERS, [])))
    for side in asked.size:
        for gradient, images in ((False, asked.images), (True, asked.images // 5)):
            records.append(measure(side, images, gradient, place))
            click.echo(markdown_row(_row(records[-1])))
    if asked.name:
        results.write(asked.name, {"records": records}, markdown(HEADERS, map(_row, records)))


def _row(record: dict[str, Any]) -> list[Any]:
    """The cells of a record, by `HEADERS`."""
    times = (f"{record[name]:.3f}" for name in ("formula_ms", "kernels_ms", "least_ms"))
    return [record["side"], record["images"], "yes" if record["gradient"] else "no", *times]


if __name__ == "__main__":
    guard.run(main)
