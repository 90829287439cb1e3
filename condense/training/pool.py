"""A pool of networks trained a little on the real images: what later methods match under in place of random networks.

Zhao et al., "Improved Distribution Matching" (IDM, CVPR 2023), match under networks of a queue that are being trained; Zhang
et al., "DANCE" (IJCAI 2024), under points between a network's first and last weights, which stand for its training. So do we:
a step draws one network of the pool and a point of its way, uniformly in [0, 1], and a pool is the last weights of each, for
the first follow from the seed. All of it is indexing of one tensor, so that a step remains one CUDA graph.
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
from condense.training.train import Protocol, train

_BATCH = 64


class Pool:
    """The trained weights of P networks of one architecture.

    trained: float32 [P, W], all parameters of each network, in their order; on the device.
    seed: that of the run; the first weights of the networks, and what a step draws, follow from it.
    stage: where on a network's way, from 0 (its first weights) to 1 (its last), the points of the steps lie.
    """

    def __init__(self, trained: Tensor, seed: int, stage: tuple[float, float] = (0.0, 1.0)) -> None:
        self._trained, self._seed, self._stage = trained, seed, stage
        self._lane = torch.zeros(1, dtype=torch.int64, device=trained.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._trained.device

    @torch.no_grad()
    def draw(self, network: Network, step: int | Tensor) -> None:
        """Give `network` the weights of a step: a point between the first and the last ones of one network of the pool."""
        u = uniforms(self._seed, "pool", step, self._lane, 2)
        which = (u[:, 0] * len(self._trained)).long().clamp(max=len(self._trained) - 1)
        begin(network, self._seed, which[0])
        point = self._stage[0] + (self._stage[1] - self._stage[0]) * u[0, 1]
        # Not `self._trained[which]`: an index of no dimensions would be read on the host, which a graph does not allow.
        for parameter, last in _beside(network, self._trained.index_select(0, which)[0]):
            parameter.lerp_(last, point)

    @torch.no_grad()
    def labels(self, network: Network, condensed: CondensedSet) -> Tensor:
        """Soft labels of a set's images, [N, C]: half the label each has, half the mean answer (softmax) of the trained networks
        to what it decodes to. So the largest entry stays that of its class. `network` lends its architecture."""
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
    """Each parameter of `network`, beside its value in `weights` [W]."""
    parameters = list(network.parameters())
    values = weights.split([parameter.numel() for parameter in parameters])
    return (
        (parameter, value.view_as(parameter))
        for parameter, value in zip(parameters, values, strict=True)
    )


def begin(network: Network, seed: int, which: int | Tensor) -> None:
    """The weights from which network number `which` of a pool is trained."""
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
    """The weights [P, W] of `count` networks called `name`, each trained for `steps` steps on 64 real images.

    With a `folder`, each is kept in a file of its own when it is trained, and read if it is there.
    """
    network = networks.build(name, dataset.shape, len(dataset.classes)).to(device)
    fast = accelerate(
        network, 3.0 * count * steps * _BATCH * dataset.train.pixels[0, 0].numel(), device
    )
    found = []
    for which in range(count):
        path = folder / f"network-{which:02}.safetensors" if folder else None
        weights = _kept(path)
        if weights is None:
            begin(network, seed, which)
            _train(
                fast, dataset, steps, augment, preprocess.to(device), derive(seed, "pool", which)
            )
            weights = torch.cat(
                [parameter.detach().flatten() for parameter in network.parameters()]
            ).cpu()
            if path:
                save_tensors(path, {"weights": weights}, {})
        found.append(weights.to(device))
    return torch.stack(found)


def _kept(path: Path | None) -> Tensor | None:
    """The weights in a file, if it is there; a damaged one is named and passed over."""
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
