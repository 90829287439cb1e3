"""KIP.

The kernel against loops over positions, and against wide finite networks; the regression against
NumPy.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from condense.methods import KIP
from condense.methods.base import Problem
from condense.methods.kip import loss_of, ntk

WEIGHTS, BIASES = 2.0, 0.1**2  # of b_std 0.1, as in the authors' code


def images(count: int, seed: int, side: int = 3) -> Tensor:
    return torch.randn(
        count, 2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def naive(x: Tensor, y: Tensor, depth: int, window: int) -> float:
    """The kernel of one pair, position by position, with Python's floats."""
    channels, height, width = x.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    reach = window // 2

    def spread(values: dict) -> dict:
        return {
            (i, j): sum(
                values.get((i + a, j + b), 0.0)
                for a in range(-reach, reach + 1)
                for b in range(-reach, reach + 1)
            )
            / window**2
            for i, j in places
        }

    def covariance(a: Tensor, b: Tensor) -> dict:
        return {
            (i, j): sum(a[c, i, j].item() * b[c, i, j].item() for c in range(channels)) / channels
            for i, j in places
        }

    k_xy, k_xx, k_yy = covariance(x, y), covariance(x, x), covariance(y, y)
    t = dict.fromkeys(places, 0.0)
    for _ in range(depth):
        k_xy, k_xx, k_yy = (
            {p: WEIGHTS * v + BIASES for p, v in spread(k).items()} for k in (k_xy, k_xx, k_yy)
        )
        t = {p: k_xy[p] + WEIGHTS * v for p, v in spread(t).items()}
        for p in places:
            angle = math.acos(min(1.0, k_xy[p] / math.sqrt(k_xx[p] * k_yy[p])))
            t[p] *= (math.pi - angle) / (2 * math.pi)
            k_xy[p] = (
                math.sqrt(k_xx[p] * k_yy[p])
                / (2 * math.pi)
                * (math.sin(angle) + (math.pi - angle) * math.cos(angle))
            )
            k_xx[p], k_yy[p] = k_xx[p] / 2, k_yy[p] / 2
    out = WEIGHTS * sum(k_xy.values()) / len(places) + BIASES
    return out + WEIGHTS * sum(t.values()) / len(places)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_convolutional_kernel_is_the_recursion_at_every_position(depth: int) -> None:
    x, y = images(2, 0), images(3, 1)
    found = ntk(x, y, depth, 3)
    for n in range(2):
        for m in range(3):
            assert found[n, m].item() == pytest.approx(naive(x[n], y[m], depth, 3), rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_fully_connected_kernel_has_one_position(depth: int) -> None:
    x, y = (images(2, seed).flatten(1)[:, :, None, None] for seed in (0, 1))
    found = ntk(x, y, depth, 1)
    assert found[0, 1].item() == pytest.approx(naive(x[0], y[1], depth, 1), rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 3])
def test_the_diagonal_of_images_with_themselves_is_exact(window: int, depth: int) -> None:
    x = images(3, 0)
    if window == 1:
        x = x.flatten(1)[:, :, None, None]
    whole, apart = ntk(x, None, depth, window), ntk(x, x, depth, window)
    for n in range(3):
        wanted = naive(x[n], x[n], depth, window)
        assert whole[n, n].item() == pytest.approx(wanted, rel=1e-7)
        assert abs(apart[n, n].item() - wanted) > 1e-5 * wanted  # what the largest cosine costs
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(whole[off], apart[off])


@pytest.mark.parametrize("window", [1, 3])
def test_wide_networks_have_that_kernel(window: int) -> None:
    """The inner product of the gradients of a network of width 4,096, its unit weights scaled in
    the forward pass.
    """
    width, generator = 4096, torch.Generator().manual_seed(0)
    x = images(2, 5)
    if window == 1:
        x = x.flatten(1)[:, :, None, None]
    inputs, places = x.shape[1], x.shape[2] * x.shape[3]
    shapes = [(width, inputs, window, window), (width,), (width * places,), ()]
    weights = [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in shapes
    ]

    def output(image: Tensor) -> Tensor:
        first = (WEIGHTS / (inputs * window**2)) ** 0.5 * weights[0]
        hidden = functional.conv2d(
            image[None], first, BIASES**0.5 * weights[1], padding=window // 2
        ).relu()
        return (WEIGHTS / (width * places)) ** 0.5 * (
            hidden.flatten() @ weights[2]
        ) + BIASES**0.5 * weights[3]

    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(output(image), weights)]) for image in x
    ]
    exact = ntk(x, None, 1, window)
    for n, m in ((0, 0), (0, 1), (1, 1)):
        assert (gradients[n] @ gradients[m]).item() == pytest.approx(exact[n, m].item(), rel=0.05)


@pytest.mark.parametrize("window", [1, 3])
def test_gradients_against_finite_differences_also_of_an_image_with_itself(window: int) -> None:
    x = images(2, 2).requires_grad_()
    if window == 1:
        x = x.detach().flatten(1)[:, :, None, None].requires_grad_()

    def kernels(support: Tensor) -> tuple[Tensor, Tensor]:
        return ntk(support, None, 2, window), ntk(
            images(2, 3).reshape(support.shape), support, 2, window
        )

    assert torch.autograd.gradcheck(kernels, x, atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 12))
    kernel, y_t, y_s = features @ features.T, rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    k_ss, k_ts = kernel[:4, :4], kernel[4:, :4]
    alpha = np.linalg.inv(k_ss + 0.1 * np.trace(k_ss) / 4 * np.eye(4)) @ y_s
    wanted = 0.5 * ((y_t - k_ts @ alpha) ** 2).sum() / 5
    found = loss_of(*(torch.from_numpy(v) for v in (k_ts, k_ss, y_t, y_s)), 0.1)
    assert found.item() == pytest.approx(wanted, rel=1e-9)


def regression(support: Tensor, batch: Tensor, labels: Tensor) -> Tensor:
    """The loss of a step, in float64 throughout."""
    flat, real = (x.double().flatten(1)[:, :, None, None] for x in (support, batch))
    targets = (torch.eye(10, dtype=torch.float64) - 0.1).repeat_interleave(8, dim=0)
    return loss_of(ntk(real, flat, 1, 1), ntk(flat, None, 1, 1), targets, labels.double(), 1e-3)


def test_a_step_follows_the_gradient_of_images_and_labels(problem: Callable[..., Problem]) -> None:
    given = problem(KIP(ridge=1e-3, learn_labels=True), lr=0.01, momentum=0.9, augment="none")
    learner = given.recipe.method.learner(given)
    before, labels = (
        learner.images.clone().requires_grad_(),
        learner.labels.clone().requires_grad_(),
    )
    loss = regression(before, learner._real.batch(learner.classes, 0), labels)
    found = learner.step(0)["regression"]
    torch.testing.assert_close(found, loss.float(), rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(loss, [before, labels])
    for now, then, gradient in zip(
        (learner.images, learner.labels), (before, labels), gradients, strict=True
    ):
        clear = (
            gradient.abs() > 1e-2 * gradient.abs().max()
        )  # of the others, rounding may change the sign
        first = -0.01 * gradient / (gradient.abs() + 1e-8)  # of Adam
        torch.testing.assert_close((now - then)[clear], first[clear], rtol=1e-3, atol=1e-5)
