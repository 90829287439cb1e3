"""Zero-cost scores against naive float64 computations from their papers."""

from math import log

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from condense.networks.build import initialise
from nas.columns import rank_average
from nas.free import BASELINES, grad_norm, jacob_cov, naswot, scores, synflow
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
    assert found["jacob_cov"] == -np.inf


def test_naswot_of_equal_images_is_minus_infinity():
    network = Small()
    assert naswot(network, IMAGES[[0, 1, 0]]) == -np.inf


def test_rank_average():
    first, second = [0.1, 0.5, 0.5, 0.9], [30.0, 10.0, 20.0, float("nan")]
    expected = (rankdata(first) + np.array([4, 2, 3, 1])) / 2
    np.testing.assert_array_equal(rank_average(first, second), expected)
    np.testing.assert_array_equal(rank_average(second), [4, 2, 3, 1])
