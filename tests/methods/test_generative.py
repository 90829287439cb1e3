"""The generative baselines.

Their losses against definitions, their images against what was asked for.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from condense.methods import CGAN, GMMN, VAE
from condense.methods.base import Problem
from condense.methods.cgan import discriminator_loss, generator_loss
from condense.methods.generative import Decoder, Encoder, halvings
from condense.methods.gmmn import squared_mmd
from condense.methods.vae import bound


def test_the_discrepancy_is_the_two_sample_statistic() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(2, n, 6, dtype=torch.float64, generator=generator) for n in (4, 3))
    found = squared_mmd(real, made, (0.5, 2.0))
    for c in range(2):

        def distance(x: list[float], y: list[float]) -> float:
            return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))

        r, m = real[c].tolist(), made[c].tolist()
        unit = sum(distance(x, y) for x in r for y in r) / (4 * 3)

        def mean_kernel(a: list, b: list, unit: float = unit) -> float:
            pairs = [(x, y) for x in a for y in b]
            return sum(
                math.exp(-distance(x, y) / (2 * w * unit)) for x, y in pairs for w in (0.5, 2.0)
            ) / len(pairs)

        wanted = mean_kernel(r, r) - 2 * mean_kernel(r, m) + mean_kernel(m, m)
        assert found[c].item() == pytest.approx(wanted, rel=1e-9)


def test_equal_images_have_no_discrepancy() -> None:
    images = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        squared_mmd(images, images, (1.0,)), torch.zeros(2), rtol=0, atol=1e-6
    )


def test_the_game_is_played_for_log_probabilities() -> None:
    real, made = (
        torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    of_real, of_made = Bernoulli(logits=real), Bernoulli(logits=made)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    wanted = -of_real.log_prob(one).mean() - of_made.log_prob(zero).mean()
    torch.testing.assert_close(discriminator_loss(real, made), wanted)
    torch.testing.assert_close(generator_loss(made), -of_made.log_prob(one).mean())


def test_the_bound_is_the_likelihood_and_the_divergence_from_the_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    images, decoded = (
        torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    mean, log_variance = (
        torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    terms = bound(images, decoded, mean, log_variance)
    likelihood = Normal(decoded, 1.0).log_prob(images).flatten(1).sum(1).mean()
    torch.testing.assert_close(
        terms["reconstruction"], -likelihood - 16 * 0.5 * math.log(2 * math.pi)
    )
    prior = Normal(torch.zeros_like(mean), 1.0)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1).mean()
    torch.testing.assert_close(terms["divergence"], wanted)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 9, 12), (3, 4, 4)]
)
def test_images_of_any_size(shape: tuple[int, int, int]) -> None:
    classes = torch.eye(3)
    made = Decoder(5, 3, shape, 2)(torch.randn(3, 5), classes)
    assert made.shape == (3, *shape)
    assert Encoder(3, shape, 2, 7)(made, classes).shape == (3, 7)
    assert halvings(shape) == {8: 1, 28: 2, 32: 3, 64: 4, 9: 0, 4: 0}[shape[1]]


@pytest.mark.parametrize("method", [GMMN(width=4), CGAN(width=4), VAE(width=4)])
def test_the_set_is_what_the_generator_makes_of_latents_that_do_not_change(
    method, problem: Callable[..., Problem]
) -> None:
    given = problem(method, lr=1e-3)
    learner = method.learner(given)
    first = learner.images
    assert torch.equal(first, learner.images)
    assert first.shape == given.start.images.shape
    assert not torch.equal(first[0], first[1])  # two latents of a class
    learner.step(0)
    assert not torch.equal(first, learner.images)
    # A class's images do not depend on how many others there are.
    latents = learner.latents("set latents", 0, 2)
    learner.classes = learner.classes[3:5]
    assert torch.equal(latents[6:10], learner.latents("set latents", 0, 2))


def test_normal_latents_are_normal(problem: Callable[..., Problem]) -> None:
    from scipy.stats import kstest

    drawn = VAE().learner(problem(VAE())).latents("latents", 0, 100)
    assert kstest(drawn.flatten().numpy()[:20_000], "norm").pvalue > 1e-3


def test_what_a_class_teaches_shows_in_its_images(problem: Callable[..., Problem]) -> None:
    """After a few steps the mean image of a class is nearest to that of the class's real images."""
    given = problem(VAE(width=8, latent=8), lr=3e-3, momentum=0.9, real_batch=16)
    learner = VAE(width=8, latent=8).learner(given)
    for step in range(60):
        losses = learner.step(step)
    real = (
        learner.real.batch(learner.classes, 0, per_class=100)
        .flatten(1)
        .unflatten(0, (10, -1))
        .mean(1)
    )
    made = learner.images.flatten(1).unflatten(0, (10, -1)).mean(1)
    assert (torch.cdist(made, real).argmin(dim=1) == torch.arange(10)).sum() >= 8
    assert all(part.isfinite() for part in losses.values())
