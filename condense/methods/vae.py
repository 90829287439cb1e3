"""VAE: an autoencoder with normal latents that knows the class; its decoder makes the images.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, made conditional as by Sohn, Lee
and Yan, NeurIPS 2015. With the encoder's mean m and log variance v, a latent z = m + exp(v / 2) *
normal noise, and unit variance of the pixels:

    loss = 1/2 || x - decoder(z, y) ||^2 + 1/2 sum of (m^2 + exp(v) - v - 1)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from condense.methods.base import Learner, Problem
from condense.methods.generative import START, Encoder, Generative, Generator
from condense.methods.shares import share


@dataclass(frozen=True, kw_only=True, slots=True)
class VAE(Generator):
    """The negative evidence lower bound.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam for both networks.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=VAE(width=8), real_batch=4, steps=1, lr=1e-3)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "vae"

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """100 real images per step, as in the paper, but with Adam instead of Adagrad."""
        adam = {"lr": 1e-3, "momentum": 0.9}
        return START | adam | {"steps": 50_000, "real_batch": share(100, dataset_name)}

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def bound(images: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
    """The two terms of the loss, averaged over images: scalars.

    Images are [N, ch, H, W], `mean` and `log_variance` [N, L].

    >>> import torch
    >>> images, zeros = torch.ones(2, 1, 2, 2), torch.zeros(2, 5)
    >>> bound(images, torch.zeros_like(images), zeros, zeros)
    {'reconstruction': tensor(2.), 'divergence': tensor(0.)}
    """
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)
    return {
        "reconstruction": 0.5 * (images - decoded).square().flatten(1).sum(dim=1).mean(),
        "divergence": divergence.mean(),
    }


class _Learner(Generative):
    def __init__(self, method: VAE, problem: Problem) -> None:
        super().__init__(problem, method.latent, method.width)
        shape, outputs = problem.dataset.shape, 2 * method.latent
        self._encoder, self._encoder_adam = self.train(
            "encoder", lambda: Encoder(len(self.classes), shape, method.width, outputs)
        )

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of both networks on a real batch."""
        real = self.real.batch(self.classes, step)
        mean, log_variance = self._encoder(real, self.truth).chunk(2, dim=1)
        latents = mean + (log_variance / 2).exp() * self.latents("latents", step, self.batch)
        terms = bound(real, self.generator(latents, self.truth), mean, log_variance)
        self.move(terms["reconstruction"] + terms["divergence"], self.adam, self._encoder_adam)
        return {name: term.detach() for name, term in terms.items()}
