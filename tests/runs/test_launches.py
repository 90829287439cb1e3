"""How many kernels a step of condensation launches on a GPU: in code for one that is pretended."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from launches import Launches
from pretended import kernels, launches
from torch import Tensor

from condense.data.images import Dataset, Images
from condense.data.preprocess import make_preprocess
from condense.methods.recipes import recipe_for
from condense.randomness import uniforms
from condense.runs.engine import Engine

CLASSES, IPC, REAL, SIDE = 10, 2, 4, 32
"""So few real images pass the network as one block. On a GPU that holds up to 128 of a class."""
STEP, CPU = torch.tensor(3), torch.device("cpu")
IN_32_BITS = re.compile(r"-7046029254386353131\)?\*x\d")
"""A constant of 64 bits (`condense.randomness`), multiplied by the position in a kernel."""


def engine() -> Engine:
    """DataDAM on CIFAR's shapes with few images; the number of kernels is that of many."""
    draw = torch.Generator().manual_seed(0)
    shape = (CLASSES * REAL, 3, SIDE, SIDE)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    names = tuple(map(str, range(CLASSES)))
    images = Images(pixels, torch.arange(CLASSES).repeat_interleave(REAL), names)
    dataset = Dataset("noise", images, images)
    recipe = recipe_for("paper", "noise", dataset.shape, IPC).override({"real_batch": REAL})
    start = torch.randn(CLASSES * IPC, 3, SIDE, SIDE, generator=draw)
    preprocess = make_preprocess("standard", dataset)
    return Engine(dataset, recipe, preprocess, start, seed=0, device=CPU, compiled=False)


def counted(run: Callable[[], Any]) -> int:
    with Launches() as launches:
        run()
    return launches.count


def rest_of(made: Engine) -> int:
    """What a step launches beside its compiled parts: counted as all, less these parts."""
    classes, images = made.classes, made.images
    drawn, leaf = made._draw(classes, STEP), images.detach().requires_grad_()

    def gradient() -> None:
        described = made.describe._plain(made._show(leaf, classes, STEP))
        torch.autograd.grad(described, leaf, [torch.ones(()).expand_as(one) for one in described])

    def described() -> list[Tensor]:
        with torch.no_grad():
            return made.describe._plain(drawn)

    rate = torch.tensor(1.0)
    whole = counted(lambda: made._move(classes, images, made.momentum, STEP, rate))
    return (
        whole
        - counted(lambda: made._draw(classes, STEP))
        - sum(map(counted, (gradient, described)))
    )


@pytest.mark.slow
def test_a_step_launches_at_most_150_kernels() -> None:
    made = engine()
    shown = made.images.detach().requires_grad_()
    drawing = {
        "weights": kernels(made._initialise, STEP, draws=True),
        "real": kernels(made._draw, made.classes, STEP, draws=True),
        "synthetic": kernels(made._show, shown, made.classes, STEP, draws=True),
    }
    with torch.autocast("cpu", torch.bfloat16):
        network = {"synthetic": kernels(made.describe._plain, shown)}
        with torch.no_grad():
            network["real"] = kernels(made.describe._plain, made.images)
    counts = {name: launches(codes) for name, codes in drawing.items()}
    assert all(counts.values())
    assert sum(counts.values()) <= 60, counts
    counts["network, synthetic"] = launches(network["synthetic"])
    counts["network, real"] = launches(network["real"])
    counts["rest"] = rest_of(made)
    assert all(counts.values())
    assert sum(counts.values()) <= 150, counts
    assert not any(IN_32_BITS.search(code) for codes in drawing.values() for code in codes)


@pytest.mark.slow
def test_the_compiler_would_draw_other_numbers_if_it_were_let() -> None:
    """It computes with the position of a number in 32 bits, and what is drawn needs 64."""

    def draw(lanes: Tensor) -> Tensor:
        return uniforms(0, "test", 3, lanes, 100)

    let, kept = (kernels(draw, torch.arange(4), draws=draws)[0] for draws in (False, True))
    assert IN_32_BITS.search(let)
    assert not IN_32_BITS.search(kept)
