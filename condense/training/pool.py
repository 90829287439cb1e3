"""A pool of networks that are partly trained on the real images, to match under.

Zhao et al., "Improved Distribution Matching" (IDM, CVPR 2023), match under networks from a queue
that is being trained. Zhang et al., "DANCE" (IJCAI 2024), match under points between the first and
the last weights of a network, which stand for its training. Here, too, a step draws one network of
the pool, and a point between its first and its last weights, uniformly in [0, 1]. A pool stores
only the last weights, since the first follow from the seed. TGDD (AAAI 2026) matches under the
weights that a network had after a pass of its training; such a pool stores those of every pass. A
draw is an indexing of one tensor, so that a step can still be captured as one CUDA graph.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.data.images import Dataset
from condense.data.operations import integers
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.files import load_tensor, save_tensors
from condense.networks import build as networks
from condense.networks.accelerate import accelerate
from condense.networks.base import Network
from condense.progress import Progress, progress
from condense.randomness import derive, uniforms
from condense.sets.condensed import CondensedSet
from condense.training import pace
from condense.training.descent import weights_of
from condense.training.passes import Passes
from condense.training.protocol import Protocol
from condense.training.train import train

_BATCH = 64
_MOST_PASSES = 60
"""DANCE makes as many over CIFAR-10. Unbounded, a few photos would be seen thousands of times."""

TRAININGS: dict[str, dict[str, Any]] = {
    "cosine": {"schedule": "cosine"},
    "idc": {"schedule": "stairs", "augment": "color+crop", "cutmix": 0.5},
}
"""How the networks of a pool may be trained, by name: settings of a `Protocol`.

`idc` is the training of DANCE and NCFM."""


class Pool:
    """The trained weights of P networks of one architecture.

    Parameters
    ----------
    trained: float32 [P, W], all parameters of each network, in their order; on the device. Or
        [P, T, W]: those at T points of its training, from the first to the last.
    seed: the seed of the run. It determines what each step draws.
    stage: the part of the way from the first weights (0) to the last (1) in which points are drawn.
        They lie anywhere on the line between the two, or are stored points, each as likely.
    origin: the seed of the pool's training, which determines the first weights; by default `seed`.

    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> size = sum(parameter.numel() for parameter in network.parameters())
    >>> pool = Pool(torch.zeros(3, size), seed=0, stage=(1.0, 1.0))
    >>> pool.draw(network, step=0)
    >>> network.classifier[0].weight.abs().max().item()
    0.0
    """

    def __init__(
        self,
        trained: Tensor,
        seed: int,
        stage: tuple[float, float] = (0.0, 1.0),
        origin: int | None = None,
    ) -> None:
        self._trained = trained if trained.ndim == 3 else trained[:, None]
        self._seed, self._stage = seed, stage
        self._origin = seed if origin is None else origin
        self._lane = torch.zeros(1, dtype=torch.int64, device=trained.device)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._trained.device

    @torch.no_grad()
    def draw(self, network: Network, step: int | Tensor) -> None:
        """Give `network` the weights of a step.

        They are a point between the first and the last weights of one network of the pool, or a
        stored one.
        """
        which, u = self._drawn(step)
        points = self._trained.shape[1]
        if points > 1:
            first, last = (round(end * (points - 1)) for end in self._stage)
            self._copy(network, which, first + integers(u, last - first + 1))
            return
        begin(network, self._origin, which[0])
        point = self._stage[0] + (self._stage[1] - self._stage[0]) * u
        for parameter, end in _beside(network, self._weights(which, torch.zeros_like(which))):
            parameter.lerp_(end, point)

    @torch.no_grad()
    def draw_last(self, network: Network, step: int | Tensor) -> None:
        """Give `network` the last weights of the network of the pool that `draw` draws."""
        which, _ = self._drawn(step)
        self._copy(network, which, torch.full_like(which, self._trained.shape[1] - 1))

    def _copy(self, network: Network, which: Tensor, point: Tensor) -> None:
        for parameter, value in _beside(network, self._weights(which, point)):
            parameter.copy_(value)

    def _drawn(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """The network of a step, int64 [1], and a uniform number in [0, 1), a scalar."""
        u = uniforms(self._seed, "pool", step, self._lane, 2)
        return integers(u[:, 0], len(self._trained)), u[0, 1]

    def _weights(self, which: Tensor, point: Tensor) -> Tensor:
        """The weights [W] of a network at one of its stored points, each given by a number."""
        # Not `self._trained[which, point]`: a scalar index would be read on the host, which a CUDA
        # graph does not allow.
        row = which * self._trained.shape[1] + point
        return self._trained.flatten(0, 1).index_select(0, row)[0]

    @torch.no_grad()
    def labels(self, network: Network, condensed: CondensedSet) -> Tensor:
        """Soft labels for the images of a set, [N, C].

        A soft label is half the label that the image has, and half the mean prediction (softmax) of
        the trained networks for the image, or for the images that it decodes to. The largest entry
        is therefore always that of its class. `network` provides the architecture; its weights are
        overwritten.
        """
        parts, answers = condensed.decoded().images.split(_BATCH), []
        for weights in self._trained[:, -1]:
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


def training_of(
    name: str, images: int, *, augment: str, steps: int, epochs: int | None = None
) -> Protocol:
    """How the networks of a pool are trained on so many `images`.

    Parameters
    ----------
    name: one of `TRAININGS`. Raises `UserError` for another.
    augment: the augmentation, where the training has none of its own.
    steps: the number of steps, with 64 images per step; training ends after 60 passes in any case.
    epochs: the number of passes in place of `steps`.

    >>> brief = training_of("cosine", 1000, augment="dsa", steps=20)
    >>> brief.epochs, brief.steps, brief.augment
    (2, 20, 'dsa')
    >>> training_of("idc", 1000, augment="dsa", steps=20, epochs=60).epochs
    60
    """
    if name not in TRAININGS:
        raise unknown("training of a pool", name, TRAININGS)
    length = {"epochs": epochs, "steps": None}
    if epochs is None:
        a_pass = math.ceil(images / _BATCH)
        steps = min(steps, _MOST_PASSES * a_pass)
        length = {"epochs": math.ceil(steps / a_pass), "steps": steps}
    settings = {"batch": _BATCH, "augment": augment, **length, **TRAININGS[name]}
    return Protocol(**settings)


def train_pool(
    dataset: Dataset,
    name: str,
    count: int,
    protocol: Protocol,
    *,
    preprocess: Preprocess,
    seed: int,
    device: torch.device,
    folder: Path | None,
    every_pass: bool = False,
    quiet: bool = True,
) -> Tensor:
    """Train `count` networks called `name` by `protocol`; returns their weights [P, W].

    With `every_pass` these are the weights before the first pass and after every pass, float16
    [P, epochs + 1, W]. If there is a `folder`, each network is saved there when it is trained;
    networks that are already there are read instead of trained. The weights of a network do not
    depend on `count`. Unless `quiet`, its progress is shown.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> weights = train_pool(
    ...     digits,
    ...     "convnet-d2-w8",
    ...     count=2,
    ...     protocol=training_of("cosine", len(digits.train), augment="none", steps=3),
    ...     preprocess=make_preprocess("standard", digits),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ...     folder=None,
    ... )
    >>> len(weights)
    2
    """
    network, fast = _built(dataset, name, count, protocol, device)
    images, apply = dataset.train, preprocess.to(device).apply
    pixels = images.pixels.to(device)  # a step on images elsewhere cannot be a CUDA graph
    trained, steps = [], protocol.length(len(images))
    paths = [folder and folder / f"network-{which:02}.safetensors" for which in range(count)]
    there = sum(path is not None and path.exists() for path in paths)
    with progress("train the pool", count * steps, there * steps, quiet=quiet) as report:
        for which, path in enumerate(paths):
            weights = _kept(path)
            if weights is None:
                begin(network, seed, which)
                passes = Passes(network, len(images), torch.float16) if every_pass else None
                own = derive(seed, "pool", which)
                train(
                    fast, pixels, images.labels, protocol, own,
                    prepare=apply, watch=_Told(report, protocol, len(images), which, passes),
                )  # fmt: skip
                weights = passes.weights() if passes else weights_of(network).cpu()
                if path:
                    save_tensors(path, {"weights": weights}, {})
            trained.append(weights.to(device))
    return torch.stack(trained)


def seconds_a_step(
    dataset: Dataset,
    name: str,
    count: int,
    protocol: Protocol,
    *,
    preprocess: Preprocess,
    device: torch.device,
) -> float:
    """The seconds that a step takes when `train_pool` is called with these arguments.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits, cpu = load_dataset("digits"), torch.device("cpu")
    >>> protocol = training_of("cosine", len(digits.train), augment="none", steps=3)
    >>> standard = make_preprocess("standard", digits)
    >>> seconds = seconds_a_step(
    ...     digits, "convnet-d2-w8", 1, protocol, preprocess=standard, device=cpu
    ... )
    >>> 0 < seconds < 10
    True
    """
    _, fast = _built(dataset, name, count, protocol, device)
    pixels, apply = dataset.train.pixels.to(device), preprocess.to(device).apply
    return pace.seconds_a_step(fast, pixels, dataset.train.labels, protocol, prepare=apply)


def _built(
    dataset: Dataset, name: str, count: int, protocol: Protocol, device: torch.device
) -> tuple[Network, nn.Module]:
    """A network, and the same made as fast as `count` trainings of it are worth."""
    network = networks.build(name, dataset.shape, len(dataset.classes)).to(device)
    images = dataset.train
    seen = count * protocol.length(len(images)) * protocol.batch
    pixels = 3.0 * seen * images.pixels[0, 0].numel()
    return network, accelerate(network, pixels, device)


class _Told:
    """Reports each step of the training of network number `which`; a `watch` before another."""

    def __init__(
        self,
        report: Progress,
        protocol: Protocol,
        images: int,
        which: int,
        further: Passes | None,
    ) -> None:
        self._report, self._which, self._further, self._step = report, which, further, 0
        self._steps, self._of_a_pass = protocol.length(images), protocol.steps_of_a_pass(images)

    def __call__(self, chosen: Tensor, logits: Tensor) -> None:
        if self._further:
            self._further(chosen, logits)
        done, passes = self._which * self._steps + self._step, self._step // self._of_a_pass
        self._step += 1
        total = math.ceil(self._steps / self._of_a_pass)
        self._report(done + 1, f"network {self._which + 1}, pass {passes + 1} of {total}")


def _kept(path: Path | None) -> Tensor | None:
    """The weights in a file, if it exists; a damaged file is reported and ignored."""
    if path is None or not path.exists():
        return None
    try:
        return load_tensor(path, "weights")
    except UserError as error:
        print(f"{error}; training this network again", file=sys.stderr)
        return None
