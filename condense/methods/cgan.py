"""cGAN: a generator whose images a discriminator, which knows the class, should take for real ones.

Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014, equation 2. The generator has
the loss that does not saturate (Goodfellow et al., 2014, section 3). Small convolutional networks
replace those of the paper for MNIST.

    discriminator: - E log D(x | y) - E log(1 - D(G(z | y) | y))
    generator:     - E log D(G(z | y) | y)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from condense.methods.base import Learner, Problem
from condense.methods.generative import START, Encoder, Generative, Generator
from condense.methods.shares import share


@dataclass(frozen=True, kw_only=True, slots=True)
class CGAN(Generator):
    """The losses of the paper.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam for both networks.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=CGAN(width=8), real_batch=4, steps=1, lr=1e-3)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "cgan"

    latent: int = 100
    """The length of a latent vector."""

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """100 real images per step; Adam as Radford, Metz and Chintala (2016) use it."""
        adam = {"lr": 2e-4, "momentum": 0.5}
        return START | adam | {"steps": 50_000, "real_batch": share(100, dataset_name)}

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def discriminator_loss(of_real: Tensor, of_generated: Tensor) -> Tensor:
    """The loss of the discriminator, given its logits for real and for generated images: a scalar.

    >>> import torch
    >>> discriminator_loss(torch.tensor([50.0]), torch.tensor([-50.0])).item() < 1e-6
    True
    """
    return functional.softplus(-of_real).mean() + functional.softplus(of_generated).mean()


def generator_loss(of_generated: Tensor) -> Tensor:
    """The loss of the generator, given the discriminator's logits for its images: a scalar.

    >>> import torch
    >>> generator_loss(torch.tensor([0.0]))
    tensor(0.6931)
    """
    return functional.softplus(-of_generated).mean()


class _Learner(Generative):
    def __init__(self, method: CGAN, problem: Problem) -> None:
        super().__init__(problem, method.latent, method.width)
        self._discriminator, self._discriminator_adam = self.train(
            "discriminator",
            lambda: Encoder(len(self.classes), problem.dataset.shape, method.width, 1),
        )

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator with the same latent vectors."""
        generated = self.generator(self.latents("latents", step, self.batch), self.truth)
        real = self.real.batch(self.classes, step)
        discriminator = discriminator_loss(
            self._discriminator(real, self.truth),
            self._discriminator(generated.detach(), self.truth),
        )
        self.move(discriminator, self._discriminator_adam)
        loss = generator_loss(self._discriminator(generated, self.truth))
        self.move(loss, self.adam)
        return {"discriminator": discriminator.detach(), "generator": loss.detach()}
