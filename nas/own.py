"""Candidates that a user brings: a dictionary of functions that make networks.

They are trained, scored, ranked and reported as the architectures of a search space are, by
`nas.search.rank`.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from condense.data.images import Dataset
from condense.errors import UserError, reason
from condense.networks.base import Shape
from condense.networks.factories import Factory
from condense.randomness import derive
from condense.training.protocol import Protocol
from nas.regime import Regime

Networks = Mapping[str, Callable[[], nn.Module] | Factory]
"""Functions by name, without arguments or of the image shape and the number of classes."""


@dataclass(frozen=True)
class OwnNetwork:
    """One of the candidates.

    >>> OwnNetwork(0, "small", "0123", (10, 20), lambda: nn.Linear(1, 10)).parameters((1, 1, 1), 10)
    10
    """

    index: int
    name: str
    identity: str
    """Its name and its layers, for the keys of its trainings."""
    costs: tuple[int, int] = (0, 0)
    """Its parameters and multiply-adds."""
    make: Callable[[], nn.Module] | None = None

    def parameters(self, shape: Shape, num_classes: int) -> int:
        """Trainable numbers."""
        return self.costs[0]

    def flops(self, shape: Shape, num_classes: int) -> int:
        """The multiply-adds for one image, as PyTorch counts them."""
        return self.costs[1]

    def fresh(self, shape: Shape, num_classes: int, seed: int) -> nn.Module:
        """The network with the weights that its function gives it, drawn from `seed`."""
        assert self.make is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "nas/own", self.index))
            return self.make()


@dataclass(frozen=True, eq=False)
class Own:
    """The candidates in place of a search space.

    >>> Own({"small": "0123", "wide": "4567"}).architecture("wide").index
    1
    """

    NAME: ClassVar = "own"
    REGIME: ClassVar = Regime(
        protocol=Protocol(
            epochs=20, batch=25, lr=0.05, augment="none", schedule="cosine", nesterov=True
        )
    )
    SCORE: ClassVar = "summed_loss + free"

    identities: dict[str, str]
    """What identifies each network, by its name."""
    costs: dict[str, tuple[int, int]] = field(default_factory=dict)
    networks: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    """Empty where results are only shown."""

    @classmethod
    def of(cls, networks: Networks, dataset: Dataset) -> "Own":
        """The candidates, after each has been made once and has seen two images.

        Raises `UserError` if there is none, or if one does not fit the dataset.

        >>> from condense import load_dataset
        >>> Own.of({"flat": lambda: nn.Linear(8, 9)}, load_dataset("digits"))
        Traceback (most recent call last):
        condense.errors.UserError: `flat` gives (2, 1, 8, 9) for two images: it must be (2, 10)
        """
        if not isinstance(networks, Mapping) or not networks:
            raise UserError(
                "the networks to rank need names: give a dictionary of functions that make them, "
                'as in `{"narrow": f, "wide": g}`'
            )
        makers = {name: _maker(make, dataset) for name, make in networks.items()}
        made = {name: _examined(name, make, dataset) for name, make in makers.items()}
        identities = {name: identity for name, (identity, _) in made.items()}
        return cls(identities, {name: costs for name, (_, costs) in made.items()}, makers)

    @property
    def SIZE(self) -> int:
        """The number of networks."""
        return len(self.identities)

    SAMPLE = SIZE

    def architecture(self, key: int | str) -> OwnNetwork:
        """A network by its number or name; anything else is a `UserError`."""
        names = list(self.identities)
        if key not in names and not (str(key).isdecimal() and int(key) < len(names)):
            raise UserError(f"no network {key}: there are {', '.join(names)}")
        name = str(key) if key in names else names[int(key)]
        costs, make = self.costs.get(name, (0, 0)), self.networks.get(name)
        return OwnNetwork(names.index(name), name, f"{name} {self.identities[name]}", costs, make)

    def sample(self, count: int | None = None, seed: int = 0) -> list[int]:
        """All of them, or the first `count`."""
        return list(range(self.SIZE if count is None else count))

    def __reduce__(self) -> tuple[Any, ...]:
        """As workers receive it: their functions may be lambdas, or of the script that runs."""
        import cloudpickle

        return _unpacked, (self.identities, self.costs, cloudpickle.dumps(self.networks))


def _unpacked(identities: dict[str, str], costs: dict[str, tuple[int, int]], packed: bytes) -> Own:
    import cloudpickle

    return Own(identities, costs, cloudpickle.loads(packed))


def _maker(make: Callable[..., nn.Module], dataset: Dataset) -> Callable[[], nn.Module]:
    """A function without arguments; one with two, as `evaluate` takes it, is given them."""
    try:
        needed = [one for one in inspect.signature(make).parameters.values() if _is_needed(one)]
    except (TypeError, ValueError):  # no function, or one that does not tell
        return make
    return partial(make, dataset.shape, len(dataset.classes)) if len(needed) == 2 else make


def _is_needed(parameter: inspect.Parameter) -> bool:
    positional = (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return parameter.kind in positional and parameter.default is parameter.empty


def _examined(
    name: str, make: Callable[[], nn.Module], dataset: Dataset
) -> tuple[str, tuple[int, int]]:
    """What identifies a network, and its costs, after it has seen two images."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), counter:
            network = make().eval()
            logits = network(torch.zeros(2, *dataset.shape))
    except Exception as error:  # foreign code may raise anything
        text = f"`{name}` fails for images {(2, *dataset.shape)}: {reason(error)}"
        raise UserError(text) from error
    expected = (2, len(dataset.classes))
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"`{name}` gives {shape} for two images: it must be {expected}")
    shapes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    digest = hashlib.blake2b(f"{network} {shapes}".encode(), digest_size=8).hexdigest()
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return digest, (trainable, counter.get_total_flops() // 4)  # two images, two operations each
