"""Zero-cost scores against naive float64 computations from their papers."""

from copy import deepcopy
from math import log

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from condense.networks.build import initialise
from nas.columns import rank_average
from nas.free import (
    BASELINES,
    fisher,
    grad_norm,
    grasp,
    jacob_cov,
    moved,
    naswot,
    scores,
    snip,
    synflow,
    zen,
)
from nas.spaces import convnet720 as convnet_space
from nas.spaces import nasbench201

SHAPE = (3, 8, 8)
IMAGES = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
CONNECTED = nasbench201.parse(
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
)
UNCONNECTED = nasbench201.parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|")


class Small(nn.Module):
    """Convolution, batch norm, ReLU in place, average, linear: small enough to be written out."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Linear(4, 4)
        initialise(self, 3, 0)
        with torch.no_grad():  # so that a normalisation left in shows
            self.norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0, 3.0]))
            self.norm.bias.copy_(torch.tensor([0.1, 0.2, -0.3, 0.4]))

    def forward(self, x):
        return self.linear(self.act(self.norm(self.conv(x))).mean((2, 3)))


def _forward(
    network: Small, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Logits, what goes into the activation, and (conv weight, linear weight), all float64, by the
    formulas.
    """
    w, v = (
        p.detach().double().requires_grad_() for p in (network.conv.weight, network.linear.weight)
    )
    bias, shift, scale, last = (
        p.detach().double()
        for p in (network.conv.bias, network.norm.bias, network.norm.weight, network.linear.bias)
    )
    z = F.conv2d(x.double(), w, bias, padding=1)
    mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
    z = (z - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
    return z.clamp(min=0).mean((2, 3)) @ v.T + last, z, [w, v]


def test_synflow_is_the_product_of_weights_along_paths():
    """Each of the two layers' sums of |weight x gradient|, by loops over pixels and channels."""
    network = Small()
    w, b, v = (
        p.detach().double().abs().numpy()
        for p in (network.conv.weight, network.conv.bias, network.linear.weight)
    )
    first = second = 0.0
    for y in range(8):
        for x in range(8):
            for out in range(4):
                inside = sum(
                    w[out, c, dy, dx]
                    for c in range(3)
                    for dy in range(3)
                    for dx in range(3)
                    if 0 <= y + dy - 1 < 8 and 0 <= x + dx - 1 < 8
                )
                down = v[:, out].sum() / 64
                first += inside * down
                second += (inside + b[out]) * down
    assert synflow(network, SHAPE) == pytest.approx(first + second, rel=1e-9)


def test_naswot_counts_equal_states_image_by_image():
    network = Small()
    _, z, _ = _forward(network, IMAGES)
    codes = (z > 0).flatten(1).tolist()
    kernel = [[sum(p == q for p, q in zip(a, b, strict=True)) for b in codes] for a in codes]
    assert naswot(network, IMAGES) == pytest.approx(
        np.linalg.slogdet(np.array(kernel, dtype=float))[1], rel=1e-9
    )


def test_grad_norm_sums_the_norms_of_both_layers():
    network = Small()
    logits, _, weights = _forward(network, IMAGES)
    loss = -(logits - logits.logsumexp(1, keepdim=True))[range(6), LABELS].mean()
    expected = sum(float((g * g).sum() ** 0.5) for g in torch.autograd.grad(loss, weights))
    assert grad_norm(network, IMAGES, LABELS) == pytest.approx(expected, rel=1e-4)


def _loss(logits: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy, written out."""
    return -(logits - logits.logsumexp(1, keepdim=True))[range(6), LABELS].mean()


def _gradients(network: Small, moves: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """The gradients of the loss by the two weights, float64, after the weights are moved."""
    network = deepcopy(network).double()
    with torch.no_grad():
        for weight, move in zip(
            (network.conv.weight, network.linear.weight), moves or [], strict=False
        ):
            weight += move
    logits, _, weights = _forward(network, IMAGES)
    return list(torch.autograd.grad(_loss(logits), weights))


def test_snip_is_weights_times_their_finite_differences():
    """Gradients from differences of the loss, one weight after another."""
    network, step = deepcopy(Small()).double(), 1e-6
    expected = 0.0
    for weight in (network.conv.weight.data.view(-1), network.linear.weight.data.view(-1)):
        for at in range(len(weight)):
            losses = []
            for sign in (1, -1):
                weight[at] += sign * step
                losses.append(_loss(_forward(network, IMAGES)[0]).item())
                weight[at] -= sign * step
            expected += abs(float(weight[at]) * (losses[0] - losses[1]) / (2 * step))
    assert snip(Small(), IMAGES, LABELS) == pytest.approx(expected, rel=1e-4)


def test_grasp_is_weights_times_the_change_of_the_gradient_along_itself():
    """H g from two gradients, a small step along g apart."""
    network, step = Small(), 1e-5
    along = _gradients(network)
    ahead, behind = (_gradients(network, [sign * step * g for g in along]) for sign in (1, -1))
    weights = (network.conv.weight, network.linear.weight)
    expected = -sum(
        float((weight.detach().double() * (a - b) / (2 * step)).sum())
        for weight, a, b in zip(weights, ahead, behind, strict=True)
    )
    assert grasp(network, IMAGES, LABELS) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_grasp_is_undefined_where_pytorch_has_no_second_derivative():
    network = Small()
    network.act = nn.Hardsigmoid()
    assert np.isnan(grasp(network, IMAGES, LABELS))
    assert np.isfinite(snip(network, IMAGES, LABELS))


def test_fisher_is_written_out_channel_by_channel():
    network = Small()
    w, b, scale, shift, v, last = (
        p.detach().double()
        for p in (*network.conv.parameters(), *network.norm.parameters(),
                  *network.linear.parameters())
    )  # fmt: skip
    maps = F.conv2d(IMAGES.double(), w, b, padding=1).requires_grad_()
    mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), keepdim=True, correction=0)
    z = (maps - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
    logits = z.clamp(min=0).mean((2, 3)) @ v.T + last
    by_map, by_logit = torch.autograd.grad(_loss(logits), (maps, logits))
    expected = 0.0
    for channel in range(4):
        squares = [(maps * by_map)[n, channel].sum().item() ** 2 for n in range(6)]
        expected += sum(squares) / 6 / 2
    expected += ((logits * by_logit) ** 2).mean(0).sum().item() / 2
    assert fisher(network, IMAGES, LABELS) == pytest.approx(expected, rel=1e-4)


def test_zen_measures_the_last_map_and_what_is_divided_by():
    network, change = Small(), 0.01 * torch.randn(6, *SHAPE)

    def last_map(x: torch.Tensor) -> torch.Tensor:
        return _forward(network, x)[1].detach().clamp(min=0)

    convolved = F.conv2d(
        IMAGES.double(), network.conv.weight.double(), network.conv.bias.double(), padding=1
    )
    divided = np.sqrt(np.mean([convolved[:, c].detach().numpy().var() for c in range(4)]))
    distance = np.abs((last_map(IMAGES + change) - last_map(IMAGES)).numpy()).sum((1, 2, 3)).mean()
    expected = log(distance) + log(divided)
    assert moved(network.train(), IMAGES, change) == pytest.approx(expected, rel=1e-4)


def test_zen_sees_scales_that_a_normalisation_hides():
    """Twice the weights before a normalisation move its output no further, but count."""
    network, change = Small().train(), 0.01 * torch.randn(6, *SHAPE)
    before = moved(network, IMAGES, change)
    network.conv.weight.data *= 2
    network.conv.bias.data *= 2
    assert moved(network, IMAGES, change) == pytest.approx(before + log(2), rel=1e-3)
    assert zen(network, SHAPE) == zen(Small(), SHAPE)  # it draws weights of its own
    assert zen(network, SHAPE, seed=1) != zen(network, SHAPE)
    with torch.no_grad():
        network.norm.weight.zero_()
        network.norm.bias.zero_()
    assert moved(network, IMAGES, change) == -np.inf


def test_jacob_cov_is_that_of_numpy_correlations():
    network = Small()
    x = IMAGES.double().requires_grad_()
    logits, _, _ = _forward(network, x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    values = np.linalg.eigvalsh(np.corrcoef(gradient.flatten(1).numpy()))
    expected = -sum(log(v + 1e-5) + 1 / (v + 1e-5) for v in values)
    assert jacob_cov(network, IMAGES) == pytest.approx(expected, rel=1e-3)


def test_scores_leave_the_network_and_the_images_as_they_were():
    network, images = Small().eval(), IMAGES.clone()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for score in (
        lambda: synflow(network, SHAPE),
        lambda: naswot(network, images),
        lambda: jacob_cov(network, images),
        lambda: snip(network, images, LABELS),
        lambda: grasp(network, images, LABELS),
        lambda: fisher(network, images, LABELS),
        lambda: zen(network, SHAPE),
    ):
        assert score() == score()
    grad_norm(network, images, LABELS)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in network.parameters())
    assert not network.training
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad


def test_scores_of_both_spaces_are_finite_and_seeded():
    for architecture in (
        CONNECTED,
        *map(convnet_space.architecture, convnet_space.sample(5, 1, stratified=True)),
    ):
        if (
            isinstance(architecture, convnet_space.ConvNet)
            and architecture.pool != "none"
            and architecture.depth > 3
        ):
            continue  # 8 px are too small
        found = scores(architecture, IMAGES, LABELS, 4, seed=5)
        assert list(found) == list(BASELINES)
        assert all(np.isfinite(v) for v in found.values()), (architecture.name, found)
        assert found == scores(architecture, IMAGES, LABELS, 4, seed=5)
        assert found["grad_norm"] != scores(architecture, IMAGES, LABELS, 4, seed=6)["grad_norm"]


def test_a_cell_without_a_path_has_nothing():
    found = scores(UNCONNECTED, IMAGES, LABELS, 4)
    assert found["synflow"] == found["grad_norm"] == 0
    assert found["jacob_cov"] == found["zen"] == -np.inf
    assert found["snip"] == found["grasp"] == 0


def test_naswot_of_equal_images_is_minus_infinity():
    network = Small()
    assert naswot(network, IMAGES[[0, 1, 0]]) == -np.inf


def test_rank_average():
    first, second = [0.1, 0.5, 0.5, 0.9], [30.0, 10.0, 20.0, float("nan")]
    expected = (rankdata(first) + np.array([4, 2, 3, 1])) / 2
    np.testing.assert_array_equal(rank_average(first, second), expected)
    np.testing.assert_array_equal(rank_average(second), [4, 2, 3, 1])
