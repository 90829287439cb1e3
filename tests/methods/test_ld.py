"""Label distillation.

Its gradient against finite differences, its labels, and when a network is replaced.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from condense.methods import LD, ld
from condense.methods.base import Problem
from condense.networks.build import build, initialise


def outer_loss(given: Problem, labels: Tensor, real: Tensor, inner_lr: float) -> Tensor:
    """The loss on real images after the step on the base images, written plainly in float64."""
    network = build("convnet-d2-w8", given.dataset.shape, 10)
    initialise(network, 3, 0)
    network.double()
    log_p = network(given.start.images.double()).log_softmax(dim=1)
    inner = torch.stack(
        [-(label * row).sum() for label, row in zip(labels, log_p, strict=True)]
    ).mean()
    weights = dict(network.named_parameters())
    gradients = torch.autograd.grad(inner, list(weights.values()))
    moved = {
        name: weight - inner_lr * g
        for (name, weight), g in zip(weights.items(), gradients, strict=True)
    }
    log_p = functional_call(network, moved, (real.double(),)).log_softmax(dim=1)
    return torch.stack([-row[number // 8] for number, row in enumerate(log_p)]).mean()


def test_the_first_step_lowers_the_loss_after_a_step_on_the_images(
    problem: Callable[..., Problem],
) -> None:
    given = problem(LD(inner_batch=None, inner_lr=0.5), lr=1e-3, momentum=0.9, augment="none")
    learner = given.recipe.method.learner(given)
    real = learner._real.batch(learner.classes, 0)
    uniform = torch.full((20, 10), 0.1, dtype=torch.float64)
    parts = learner.step(0)
    assert float(parts["outer"]) == pytest.approx(
        outer_loss(given, uniform, real, 0.5).item(), rel=1e-4
    )
    for n, c in ((0, 0), (3, 1), (7, 9), (19, 4)):
        ends = []
        for sign in (-1, 1):
            moved = uniform.clone()
            moved[n, c] += sign * 1e-3
            ends.append(outer_loss(given, moved, real, 0.5).item())
        slope = (ends[1] - ends[0]) / 2e-3
        assert learner.labels.grad is not None
        assert learner.labels.grad[n, c].item() == pytest.approx(slope, rel=1e-2, abs=1e-6)
    # Adam's first step is its rate against the slope's sign; then the label is divided by its sum.
    wanted = (uniform.float() - 1e-3 * learner.labels.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(
        learner.labels, wanted / wanted.sum(dim=1, keepdim=True), rtol=0, atol=1e-4
    )


def test_images_stay_and_labels_are_probabilities(problem: Callable[..., Problem]) -> None:
    given = problem(
        LD(inner_batch=5), lr=0.5, momentum=0.9
    )  # a rate at which many an entry falls below 0
    learner = given.recipe.method.learner(given)
    for step in range(5):
        learner.step(step)
    assert torch.equal(learner.images, given.start.images)
    assert (learner.labels >= 0).all()
    torch.testing.assert_close(learner.labels.sum(dim=1), torch.ones(20))


def test_a_network_that_learns_no_more_is_replaced(problem: Callable[..., Problem]) -> None:
    given = problem(LD(patience=3))
    learner = given.recipe.method.learner(given)
    used = []
    # The mean of the last three falls until the fifth error; then three errors are borne with, and
    # the fourth is too much.
    for error in [0.9, 0.8, 0.7, 0.6, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9]:
        learner._replace_if_done(error)
        used.append(int(learner._used))
    assert used == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    fresh = build("convnet-d2-w8", given.dataset.shape, 10)
    initialise(fresh, 3, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(learner._network.parameters(), fresh.parameters(), strict=True)
    )


def test_blocks_of_real_images_change_rounding_only(
    problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(LD(inner_batch=None), lr=0.01, momentum=0.9)
    whole, parted = given.recipe.method.learner(given), given.recipe.method.learner(given)
    parts = whole.step(0)
    monkeypatch.setattr(ld, "block_size", lambda images, device: 30)
    assert float(parted.step(0)["outer"]) == pytest.approx(float(parts["outer"]), rel=1e-5)
    assert whole.labels.grad is not None
    assert parted.labels.grad is not None
    torch.testing.assert_close(parted.labels.grad, whole.labels.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "images"), [("cifar10", 102), ("cifar100", 10), ("tinyimagenet", 5)]
)
def test_a_published_batch_is_shared_among_the_classes(name: str, images: int) -> None:
    assert LD.published(name, (3, 32, 32), 10)["real_batch"] == images
