"""Derivatives through training steps, against finite differences and against a graph of all steps,
in float64.
"""

import pytest
import torch
from torch import Tensor

from condense.errors import UserError
from condense.networks import build as networks
from condense.training import descent
from condense.training.descent import CrossEntropy, through_descent

SMOOTH = "convnet-d2-w4-sigmoid"  # no kinks: finite differences hold


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loss() -> CrossEntropy:
    return CrossEntropy(networks.build(SMOOTH, (1, 8, 8), 3), SMOOTH)


@pytest.fixture
def weights(loss: CrossEntropy) -> Tensor:
    return loss.fresh(0, 0).double()


IMAGES, LABELS = normal(5, 1, 8, 8, seed=1), torch.tensor([0, 1, 2, 0, 1])


def slope(function, point: Tensor, direction: Tensor, step: float = 1e-5) -> Tensor:
    """The derivative of `function` at `point` along `direction`, by central differences."""
    return (function(point + step * direction) - function(point - step * direction)) / (2 * step)


def test_weights_are_those_of_the_network(loss: CrossEntropy) -> None:
    network = networks.build(SMOOTH, (1, 8, 8), 3)
    networks.initialise(network, 5, 7)
    layers = loss.layers(loss.fresh(5, 7))
    for name, parameter in network.named_parameters():
        assert torch.equal(layers[name], parameter)


def test_the_loss_is_the_networks_mean_cross_entropy(loss: CrossEntropy, weights: Tensor) -> None:
    network = networks.build(SMOOTH, (1, 8, 8), 3).double()
    network.load_state_dict(loss.layers(weights))
    chances = network(IMAGES).softmax(dim=1)
    naive = sum(-chances[n, label].log() for n, label in enumerate(LABELS)) / len(LABELS)
    torch.testing.assert_close(loss.gradient(weights, IMAGES, LABELS)[0], naive.detach())


@pytest.mark.parametrize("block", [None, 2])
def test_gradient_and_its_derivatives_by_finite_differences(
    loss: CrossEntropy, weights: Tensor, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block:
        monkeypatch.setattr(descent, "block_size", lambda images, device: block)
    direction, of_pixels = normal(len(weights), seed=2), normal(*IMAGES.shape, seed=3)
    gradient = loss.gradient(weights, IMAGES, LABELS)[1]
    along = slope(lambda w: loss.gradient(w, IMAGES, LABELS)[0], weights, direction)
    torch.testing.assert_close(gradient @ direction, along, rtol=1e-6, atol=1e-9)

    product, of_images, hessian = loss.pull_back(weights, IMAGES, LABELS, direction)
    torch.testing.assert_close(product, gradient @ direction)
    torch.testing.assert_close(
        hessian,
        slope(lambda w: loss.gradient(w, IMAGES, LABELS)[1], weights, direction),
        rtol=1e-5,
        atol=1e-7,
    )
    along = slope(lambda x: loss.gradient(weights, x, LABELS)[1] @ direction, IMAGES, of_pixels)
    torch.testing.assert_close((of_images * of_pixels).sum(), along, rtol=1e-6, atol=1e-9)
    assert torch.equal(
        loss.pull_back(weights, IMAGES, LABELS, direction, to_weights=False)[1], of_images
    )


def test_soft_labels_are_hard_ones_when_one_hot(loss: CrossEntropy, weights: Tensor) -> None:
    hot = torch.nn.functional.one_hot(LABELS, 3).double()
    for hard, soft in zip(
        loss.gradient(weights, IMAGES, LABELS), loss.gradient(weights, IMAGES, hot), strict=True
    ):
        torch.testing.assert_close(hard, soft)


def test_descent_is_differentiated_as_by_a_graph_of_all_steps(
    loss: CrossEntropy, weights: Tensor
) -> None:
    chosen, goal = (
        [torch.tensor([0, 2]), torch.tensor([1, 2, 4]), torch.tensor([3])],
        normal(len(weights), seed=4),
    )
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def batch(number: int, images: Tensor) -> tuple[Tensor, Tensor]:
        return images[chosen[number]] * (number + 1), LABELS[
            chosen[number]
        ]  # something that differentiates, too

    def naive(images: Tensor, rates: Tensor) -> Tensor:
        network = networks.build(SMOOTH, (1, 8, 8), 3)
        w = weights.clone().requires_grad_()
        for number in range(3):
            drawn, labels = batch(number, images)
            logits = torch.func.functional_call(network, loss.layers(w), drawn)
            error = -logits.log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
            w = w - rates[number] * torch.autograd.grad(error, w, create_graph=True)[0]
        return (w - goal).square().sum()

    value, of_images, of_rates = through_descent(
        loss, weights, IMAGES, rates, batch, lambda w: ((w - goal).square().sum(), 2 * (w - goal))
    )
    leaves = IMAGES.clone().requires_grad_(), rates.clone().requires_grad_()
    expected = naive(*leaves)
    torch.testing.assert_close(value, expected.detach())
    for ours, theirs in zip(
        (of_images, of_rates), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    direction = normal(*IMAGES.shape, seed=5)
    along = slope(lambda x: naive(x, rates).detach(), IMAGES, direction)
    torch.testing.assert_close((of_images * direction).sum(), along, rtol=1e-5, atol=1e-7)


def test_a_network_whose_images_join_is_refused() -> None:
    with pytest.raises(UserError, match="`convnet-batch`: BatchNorm"):
        CrossEntropy(networks.build("convnet-batch", (1, 8, 8), 3), "convnet-batch")
