"""cGAN: a generator that a discriminator, told the class, cannot tell from the real images.

Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014, equation 2, with the generator's loss that does not saturate
(Goodfellow et al., 2014, section 3) and small convolutional networks in place of the paper's for MNIST:

    discriminator: - E log D(x | y) - E log(1 - D(G(z | y) | y))        generator: - E log D(G(z | y) | y)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from condense.methods.base import Learner, Looping, Problem, share
from condense.methods.generative import Encoder, Generative
from condense.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class CGAN(Looping):
    """The paper's losses. The recipe's `lr` and `momentum` are the rate and beta_1 of both networks' Adam."""

    name: ClassVar[str] = "cgan"

    latent: int = 100
    """Length of a latent."""
    width: int = 32
    """Channels of both networks at full resolution; twice as many at half."""

    def __post_init__(self) -> None:
        require("latent", self.latent, self.latent >= 1, "1 or more")
        require("width", self.width, self.width >= 1, "1 or more")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """100 real images a step; Adam as Radford, Metz and Chintala (2016) use it."""
        return {
            "steps": 50_000,
            "real_batch": share(100, dataset_name),
            "lr": 2e-4,
            "momentum": 0.5,
            "init": "noise",
            "augment": "none",
        }

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def discriminator_loss(of_real: Tensor, of_made: Tensor) -> Tensor:
    """Of the discriminator's logits for real and made images: a scalar."""
    return functional.softplus(-of_real).mean() + functional.softplus(of_made).mean()


def generator_loss(of_made: Tensor) -> Tensor:
    """Of the discriminator's logits for made images: a scalar."""
    return functional.softplus(-of_made).mean()


class _Learner(Generative):
    def __init__(self, method: CGAN, problem: Problem) -> None:
        super().__init__(problem, method.latent, method.width)
        self._discriminator = Encoder(len(self.classes), problem.dataset.shape, method.width, 1)
        self._discriminator_adam = self.train("discriminator", self._discriminator)

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator on the same latents."""
        made = self.generator(self.latents("latents", step, self.batch), self.truth)
        real = self.real.batch(self.classes, step)
        doubted = discriminator_loss(
            self._discriminator(real, self.truth), self._discriminator(made.detach(), self.truth)
        )
        self.move(doubted, self._discriminator_adam)
        loss = generator_loss(self._discriminator(made, self.truth))
        self.move(loss, self.adam)
        return {"discriminator": doubted.detach(), "generator": loss.detach()}
