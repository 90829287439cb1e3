"""CAFE's losses against loops over classes and images, and its two loops against what the paper
says of them.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from condense.data.batches import RealImages
from condense.errors import UserError
from condense.methods import CAFE
from condense.methods.base import Problem
from condense.methods.cafe import alignment, discrimination
from condense.networks.build import build, initialise


def test_alignment_is_the_squared_distance_of_every_layers_means() -> None:
    generator = torch.Generator().manual_seed(0)
    real, synthetic = (
        [torch.randn(3, size, dtype=torch.float64, generator=generator) for size in (4, 7)]
        for _ in range(2)
    )
    wanted = sum(
        (r[k, d] - s[k, d]).item() ** 2
        for r, s in zip(real, synthetic, strict=True)
        for k in range(3)
        for d in range(r.shape[1])
    )
    assert alignment(real, synthetic).item() == pytest.approx(wanted, rel=1e-9)


def test_layers_are_weighed_as_in_the_authors_code_the_embedding_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    real, synthetic = (
        [torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(5)]
        for _ in range(2)
    )
    squares = [((r - s) ** 2).sum().item() for r, s in zip(real, synthetic, strict=True)]
    published = CAFE().layer_weights
    for layers, weights in (
        (4, [0.1, 0.1, 1.0, 2.0]),  # three maps and the embedding: their network
        (5, [0.1, 0.1, 0.1, 1.0, 2.0]),
        (3, [0.1, 1.0, 2.0]),
        (1, [2.0]),
    ):
        wanted = sum(w * square for w, square in zip(weights, squares, strict=False))
        found = alignment(real[:layers], synthetic[:layers], published)
        assert found.item() == pytest.approx(wanted, rel=1e-9)
    with pytest.raises(UserError, match=r"`layer_weights` is \(\): it must be one number or more"):
        CAFE(layer_weights=())
    with pytest.raises(UserError, match=r"`layer_weights` is \(1.0, -0.1\)"):
        CAFE(layer_weights=(1.0, -0.1))
    assert CAFE(layer_weights=(0.0, 1.0)).layer_weights == (0.0, 1.0)


def test_discrimination_is_the_surprise_at_the_real_images_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    centres = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    wanted = 0.0
    for k in range(3):
        for image in real[k].tolist():
            products = [
                sum(a * b for a, b in zip(image, centre, strict=True))
                for centre in centres.tolist()
            ]
            wanted += math.log(sum(math.exp(p) for p in products)) - products[k]
    assert discrimination(real, centres).item() == pytest.approx(wanted, rel=1e-9)


def test_the_first_update_follows_the_gradient_of_the_paper_s_loss(
    problem: Callable[..., Problem],
) -> None:
    given = problem(CAFE(queue=2, query=4, most_passes=1, loss_scale=3.0), lr=0.1, augment="none")
    learner = given.recipe.method.learner(given)
    network = build("convnet-d2-w8", given.dataset.shape, 10)
    initialise(network, 3, 0)
    network.double()
    real = (
        RealImages(given.dataset, given.start.preprocess, 8, 3, given.device)
        .batch(torch.arange(10), 0)
        .double()
    )
    images = given.start.images.double().requires_grad_()

    def means(of: Tensor, per_class: int) -> list[list[Tensor]]:
        maps, embedding = network.observe(of)
        layers = [layer.flatten(1) for layer in (*maps, embedding)]
        return [
            [layer[k * per_class : (k + 1) * per_class].mean(0) for k in range(10)]
            for layer in layers
        ]

    synthetic = means(images, 2)
    total = sum(
        weight * ((r - s) ** 2).sum()
        for weight, of, at in zip((0.1, 1.0, 2.0), means(real, 8), synthetic, strict=True)
        for r, s in zip(of, at, strict=True)
    )
    for number, embedding in enumerate(network.embed(real)):
        products = torch.stack([embedding @ centre for centre in synthetic[-1]])
        total = total + 0.01 * (products.logsumexp(0) - products[number // 8])
    (gradient,) = torch.autograd.grad(3.0 * total, images)
    parts = learner.step(0)
    assert sum(float(part) for part in parts.values()) == pytest.approx(
        3.0 * total.item(), rel=1e-4
    )
    torch.testing.assert_close(
        learner.images, (images - 0.1 * gradient).float(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("step", "halvings"), [(5, 0), (6, 1), (7, 1), (8, 2), (9, 3)])
def test_the_rate_is_halved_at_six_eight_and_nine_tenths(
    problem: Callable[..., Problem], step: int, halvings: int
) -> None:
    short, endless = (problem(CAFE(), lr=0.1, steps=steps) for steps in (10, 10_000))
    moves = []
    for given in (short, endless):
        learner = given.recipe.method.learner(given)
        learner._update(step)
        moves.append(learner.images - given.start.images)
    torch.testing.assert_close(moves[0], moves[1] * 0.5**halvings, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("accuracies", "outer_bound", "replaced"),
    [
        ([0.1, 0.1], 0.04, True),  # two accuracies within the bound
        ([0.1, 0.2], 0.04, False),
        ([0.1], 0.04, False),  # one says nothing yet
    ],
)
def test_a_network_goes_when_the_images_no_longer_change_it(
    problem: Callable[..., Problem],
    monkeypatch: pytest.MonkeyPatch,
    accuracies: list[float],
    outer_bound: float,
    replaced: bool,
) -> None:
    given = problem(CAFE(queue=2, query=4, most_passes=1, outer_bound=outer_bound))
    learner = given.recipe.method.learner(given)
    for step, accuracy in enumerate(accuracies):
        monkeypatch.setattr(learner, "_accuracy", lambda step, number, accuracy=accuracy: accuracy)
        learner.step(step)
    fresh = build("convnet-d2-w8", given.dataset.shape, 10)
    initialise(fresh, 3, 1)
    is_fresh = all(
        torch.equal(a, b)
        for a, b in zip(learner._network.parameters(), fresh.parameters(), strict=True)
    )
    assert is_fresh == replaced


@pytest.mark.parametrize(
    ("accuracies", "passes"),
    [
        ([0.1, 0.2, 0.9], 2),  # moved by more than the bound
        ([0.1, 0.11, 0.2, 0.9], 3),  # the two last count
        ([0.1] * 9, 5),  # never: the most allowed
    ],
)
def test_the_inner_loop_ends_when_the_network_has_moved(
    problem: Callable[..., Problem],
    monkeypatch: pytest.MonkeyPatch,
    accuracies: list[float],
    passes: int,
) -> None:
    given = problem(CAFE(queue=2, query=4, most_passes=5, inner_bound=0.05))
    learner, asked = given.recipe.method.learner(given), []

    def accuracy(step: int, number: int) -> float:
        asked.append(number)
        return accuracies[number - 1] if number else 0.0

    monkeypatch.setattr(learner, "_accuracy", accuracy)
    learner.step(0)
    assert asked == [0, *range(1, passes + 1)]


def test_blocks_of_classes_change_rounding_only(problem: Callable[..., Problem]) -> None:
    given = problem(CAFE(queue=2, query=4, most_passes=1))
    whole, parted = given.recipe.method.learner(given), given.recipe.method.learner(given)
    parted._blocks = list(parted.classes.split(3))
    whole.step(0)
    parted.step(0)
    torch.testing.assert_close(whole.images, parted.images, rtol=1e-4, atol=1e-5)
