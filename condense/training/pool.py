"""A pool of networks that are partly trained on the real images, to match under.

Zhao et al., "Improved Distribution Matching" (IDM, CVPR 2023), match under networks from a queue
that is being trained. Zhang et al., "DANCE" (IJCAI 2024), match under points between the first and
the last weights of a network, which stand for its training. Here, too, a step draws one network of
the pool, and a point between its first and its last weights, uniformly in [0, 1]. A pool stores
only the last weights, since the first follow from the seed. A draw is an indexing of one tensor, so
that a step can still be captured as one CUDA graph.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from condense.files import load_tensors, save_tensors
from condense.networks import build as networks
from condense.networks.accelerate import accelerate
from condense.networks.base import Network
from condense.randomness import derive, uniforms
from condense.sets.condensed import CondensedSet
from condense.training.descent import weights_of
from condense.training.train import Protocol, train

_BATCH = 64


class Pool:
    """The trained weights of P networks of one architecture.

    Parameters
    ----------
    trained: float32 [P, W], all parameters of each network, in their order; on the device.
    seed: the seed of the run. It determines the first weights and what each step draws.
    stage: the part of the way from the first weights (0) to the last (1) in which points are drawn.

    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> size = sum(parameter.numel() for parameter in network.parameters())
    >>> pool = Pool(torch.zeros(3, size), seed=0, stage=(1.0, 1.0))
    >>> pool.draw(network, step=0)
    >>> network.classifier[0].weight.abs().max().item()
    0.0
    """

    def __init__(self, trained: Tensor, seed: int, stage: tuple[float, float] = (0.0, 1.0)) -> None:
        self._trained, self._seed, self._stage = trained, seed, stage
        self._lane = torch.zeros(1, dtype=torch.int64, device=trained.device)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._trained.device

    @torch.no_grad()
    def draw(self, network: Network, step: int | Tensor) -> None:
        """Give `network` the weights of a step.

        They are a point between the first and the last weights of one network of the pool.
        """
        u = uniforms(self._seed, "pool", step, self._lane, 2)
        which = (u[:, 0] * len(self._trained)).long().clamp(max=len(self._trained) - 1)
        begin(network, self._seed, which[0])
        point = self._stage[0] + (self._stage[1] - self._stage[0]) * u[0, 1]
        # Not `self._trained[which]`: a scalar index would be read on the host, which a CUDA graph
        # does not allow.
        for parameter, last in _beside(network, self._trained.index_select(0, which)[0]):
            parameter.lerp_(last, point)

    @torch.no_grad()
    def labels(self, network: Network, condensed: CondensedSet) -> Tensor:
        """Soft labels for the images of a set, [N, C].

        A soft label is half the label that the image has, and half the mean prediction (softmax) of
        the trained networks for the image, or for the images that it decodes to. The largest entry
        is therefore always that of its class. `network` provides the architecture; its weights are
        overwritten.
        """
        parts, answers = condensed.decoded().images.split(_BATCH), []
        for weights in self._trained:
            for parameter, last in _beside(network, weights):
                parameter.copy_(last)
            answers.append(
                torch.cat([network(part.to(self.device)).softmax(dim=1) for part in parts])
            )
        mean = torch.stack(answers).mean(dim=0).unflatten(0, (len(condensed), -1)).mean(dim=1)
        own = functional.one_hot(condensed.class_of(), len(condensed.classes))
        return (own + mean.cpu()) / 2


def _beside(network: Network, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of `network`, with its value in `weights` [W]."""
    parameters = list(network.parameters())
    values = weights.split([parameter.numel() for parameter in parameters])
    return (
        (parameter, value.view_as(parameter))
        for parameter, value in zip(parameters, values, strict=True)
    )


def begin(network: Network, seed: int, which: int | Tensor) -> None:
    """Give `network` the weights that network number `which` of a pool starts training from.

    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> before = network.classifier[0].weight.clone()
    >>> begin(network, seed=0, which=1)
    >>> torch.equal(network.classifier[0].weight, before)
    False
    """
    networks.initialise(network, derive(seed, "pool"), which)


def train_pool(
    dataset: Dataset,
    name: str,
    count: int,
    steps: int,
    *,
    augment: str,
    preprocess: Preprocess,
    seed: int,
    device: torch.device,
    folder: Path | None,
) -> Tensor:
    """Train `count` networks called `name` for `steps` steps each; returns their weights [P, W].

    A step uses 64 real images. If there is a `folder`, each network is saved there when it is
    trained; networks that are already there are read instead of trained.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> weights = train_pool(
    ...     digits,
    ...     "convnet-d2-w8",
    ...     count=2,
    ...     steps=3,
    ...     augment="none",
    ...     preprocess=make_preprocess("standard", digits),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ...     folder=None,
    ... )
    >>> len(weights)
    2
    """
    network = networks.build(name, dataset.shape, len(dataset.classes)).to(device)
    pixels = 3.0 * count * steps * _BATCH * dataset.train.pixels[0, 0].numel()
    fast = accelerate(network, pixels, device)
    trained = []
    for which in range(count):
        path = folder / f"network-{which:02}.safetensors" if folder else None
        weights = _kept(path)
        if weights is None:
            begin(network, seed, which)
            own = derive(seed, "pool", which)
            _train(fast, dataset, steps, augment, preprocess.to(device), own)
            weights = weights_of(network).cpu()
            if path:
                save_tensors(path, {"weights": weights}, {})
        trained.append(weights.to(device))
    return torch.stack(trained)


def _kept(path: Path | None) -> Tensor | None:
    """The weights in a file, if it exists; a damaged file is reported and ignored."""
    if path is None or not path.exists():
        return None
    try:
        return load_tensors(path)[0]["weights"]
    except UserError as error:
        print(f"{error}; training this network again", file=sys.stderr)
        return None


def _train(
    network: torch.nn.Module,
    dataset: Dataset,
    steps: int,
    augment: str,
    preprocess: Preprocess,
    seed: int,
) -> None:
    images = dataset.train
    epochs = math.ceil(steps / math.ceil(len(images) / _BATCH))
    protocol = Protocol(
        epochs=epochs, batch=_BATCH, steps=steps, augment=augment, schedule="cosine"
    )
    train(network, images.pixels, images.labels, protocol, seed, prepare=preprocess.apply)
