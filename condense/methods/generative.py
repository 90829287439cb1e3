"""What the generative baselines share: a conditional generator.

The set consists of its samples for fixed latents.

These methods learn to make images that look real, not images that are good to train on. They serve
for comparison (table 11 of the DataDAM paper). BigGAN and DC-VAE need large models of their own;
images that they generate can be read with `condensekit import`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.methods.adam import adam, state_of
from condense.methods.base import Learner, Looping, Problem
from condense.networks import build as networks
from condense.networks.base import Shape
from condense.randomness import derive, uniforms
from condense.settings import at_least

M = TypeVar("M", bound=nn.Module)


class Decoder(nn.Module):
    """A network from latents [N, L] and one-hot classes [N, C] to images [N, ch, H, W].

    The images are in preprocessed space. A linear layer makes a small map. Its size is doubled
    and its channels are halved, down to `width`, until it has the size of an image.

    >>> decoder = Decoder(latent=5, num_classes=10, shape=(1, 8, 8), width=4)
    >>> decoder(torch.randn(2, 5), torch.eye(10)[:2]).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, latent: int, num_classes: int, shape: Shape, width: int) -> None:
        super().__init__()
        times = halvings(shape)
        self._small = (width << times, shape[1] >> times, shape[2] >> times)
        self.first = nn.Linear(
            latent + num_classes, self._small[0] * self._small[1] * self._small[2]
        )
        widths = [width << step for step in reversed(range(times + 1))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.last = nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        x = self.first(torch.cat([latents, classes], dim=1)).unflatten(1, self._small)
        x = functional.relu(self.norms[0](x))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = functional.relu(norm(convolution(functional.interpolate(x, scale_factor=2.0))))
        return self.last(x)


class Encoder(nn.Module):
    """A network from images [N, ch, H, W] and one-hot classes [N, C] to numbers [N, outputs].

    It mirrors the decoder. The classes enter as additional, constant channels of the images.

    >>> encoder = Encoder(num_classes=10, shape=(1, 8, 8), width=4, outputs=3)
    >>> encoder(torch.rand(2, 1, 8, 8), torch.eye(10)[:2]).shape
    torch.Size([2, 3])
    """

    def __init__(self, num_classes: int, shape: Shape, width: int, outputs: int) -> None:
        super().__init__()
        times = halvings(shape)
        widths = [shape[0] + num_classes, *(width << step for step in range(times + 1))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2 if number else 1, padding=1)
            for number, (a, b) in enumerate(pairwise(widths))
        )
        self.last = nn.Linear(widths[-1] * (shape[1] >> times) * (shape[2] >> times), outputs)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        x = torch.cat([images, classes[:, :, None, None].expand(-1, -1, *images.shape[2:])], dim=1)
        for convolution in self.convolutions:
            x = functional.leaky_relu(convolution(x), 0.2)
        return self.last(x.flatten(1))


def halvings(shape: Shape) -> int:
    """How often an image can be halved evenly on both sides before a side is 4 or less.

    >>> halvings((3, 32, 32)), halvings((1, 28, 28)), halvings((1, 8, 8))
    (3, 2, 1)
    """
    _, height, width = shape
    times = 0
    while (
        min(height, width) >> times > 4 and not (height >> times) % 2 and not (width >> times) % 2
    ):
        times += 1
    return times


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator(Looping):
    """A method that trains a conditional generator, and with it perhaps other networks.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam for each of them.

    >>> from condense.methods import CGAN, VAE
    >>> issubclass(VAE, Generator), VAE().latent, CGAN().latent
    (True, 64, 100)
    """

    latent: int = 64
    """The length of a latent vector."""
    width: int = 32
    """Channels of each network at full resolution, doubled with each halving of the resolution."""

    def __post_init__(self) -> None:
        at_least(1, self, "latent", "width")


START: dict[str, Any] = {"init": "noise", "augment": "none"}
"""The settings of a recipe that all generators have."""


class Generative(Learner):
    """A learner whose images are the output of a generator for fixed latents.

    Of the starting images, only the number matters. A subclass adds whatever else it trains, and
    `step`.

    >>> from condense import Recipe, load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods import VAE
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> problem = Problem(
    ...     dataset=digits,
    ...     recipe=Recipe(name="mine", method=VAE(width=4), real_batch=4, lr=1e-3),
    ...     start=noise(digits, ipc=1, preprocess=make_preprocess("standard", digits), seed=0),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ... )
    >>> learner = problem.recipe.method.learner(problem)
    >>> isinstance(learner, Generative), learner.images.shape
    (True, torch.Size([10, 1, 8, 8]))
    """

    def __init__(self, problem: Problem, latent: int, width: int) -> None:
        self.problem, self.latent, self.width = problem, latent, width
        self.classes, self.batch = problem.classes, problem.recipe.real_batch
        self.real = problem.real()
        self.truth = self.one_hot(self.batch)
        self._trained: dict[str, tuple[nn.Module, torch.optim.Adam]] = {}
        shape = problem.dataset.shape
        self.generator, self.adam = self.train(
            "generator", lambda: Decoder(latent, len(self.classes), shape, width)
        )

    @property
    def images(self) -> Tensor:  # type: ignore[override]  # read, never set
        """Samples of the present generator, always for the same latents."""
        per_class = len(self.problem.start) // len(self.classes)
        latents = self.latents("set latents", 0, per_class)
        with torch.no_grad():
            return self.generator(latents, self.one_hot(per_class))

    def train(self, name: str, make: Callable[[], M]) -> tuple[M, torch.optim.Adam]:
        """Make a network to train; returns it and its optimiser.

        It receives fresh weights, and is stored in checkpoints under `name`.
        """
        module = networks.fresh(make, derive(self.problem.seed, name), self.problem.device)
        optimiser = adam(module.parameters(), self.problem.recipe.lr, self.problem.recipe.momentum)
        self._trained[name] = module, optimiser
        return module, optimiser

    def move(self, loss: Tensor, *optimisers: torch.optim.Adam) -> None:
        """Take one step of each optimiser along the gradient of `loss`.

        Gradients are computed only for the parameters of these optimisers.
        """
        parameters = [one for adam in optimisers for one in adam.param_groups[0]["params"]]
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for optimiser in optimisers:
            optimiser.step()

    def one_hot(self, per_class: int) -> Tensor:
        """One-hot classes of `per_class` images of each class: float32 [C * per_class, C]."""
        return functional.one_hot(self.classes).float().repeat_interleave(per_class, dim=0)

    def latents(self, purpose: str, step: int, per_class: int) -> Tensor:
        """Standard normal latents for `per_class` images of each class: [C * per_class, L]."""
        # Multiples of 2**-24 in [0, 1) are shifted by half of that and stretched, so that they are
        # symmetric in (-1, 1).
        drawn = self.uniform_latents(purpose, step, per_class) + 2.0**-24
        return torch.erfinv(drawn) * 2**0.5

    def uniform_latents(self, purpose: str, step: int, per_class: int) -> Tensor:
        """Latents that are uniform in [-1, 1): [C * per_class, L]."""
        drawn = uniforms(self.problem.seed, purpose, step, self.classes, per_class * self.latent)
        return (2 * drawn - 1).unflatten(1, (per_class, self.latent)).flatten(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights and optimisers of everything that is trained."""
        state: dict[str, Tensor] = {}
        for name, (module, optimiser) in self._trained.items():
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
            state |= state_of(f"{name} adam", optimiser)
        return state
