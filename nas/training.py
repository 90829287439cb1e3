"""A training of one candidate on one proxy set, and what it says about the candidate.

A proxy is a set of images that stands for the whole training set: a condensed set, random real images, or the whole
set stopped early. The network trained on it is scored by held-out *training* images (never test images) and by its own
training losses. A `SearchBench` holds all that the trainings of a search share; it travels to the workers once. A `SearchTask` names
one training, and its result is a `Trial` that depends on the bench and the task alone.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.data.augment import make_augment
from condense.data.images import Images
from condense.data.preprocess import Preprocess
from condense.networks.accelerate import accelerate
from condense.networks.build import initialise
from condense.randomness import derive, generator
from condense.study.trials import Key
from condense.training.train import Diverged, Protocol, train
from nas import free as baselines
from nas.proxies import FREE, Proxy
from nas.regime import Regime
from nas.spaces import space

SCORES = {"accuracy": 1, "held_loss": -1, "summed_loss": -1}
"""What a training is scored by; -1 where lower is better: the accuracy and the cross-entropy on the held-out training
images, and the sum over the passes of the mean training loss (Ru et al., "Speedy performance estimation", 2021)."""
_FREE_BATCH = 64
_TEST_BATCH = {"cpu": 50, "cuda": 1000}
_STATISTICS_BATCH, _STATISTICS_IMAGES = 250, 2000
_COMPILING_COSTS = (
    10  # on a GPU; a search compiles each network for one training: it must pay with a margin
)


@dataclass(frozen=True, order=True)
class SearchTask:
    """One training: a candidate by its index, a proxy by its name (or `FREE`), a seed."""

    seed: int
    architecture: int
    proxy: str


@dataclass(frozen=True)
class Keys:
    """What the trainings of a search are called in a store, whatever other search asks for the same."""

    space: str
    recipes: dict[str, tuple[str, str]]
    """By the name of a proxy, or `FREE`: its fingerprint, and all else that a training depends on."""

    def of(self, task: SearchTask) -> Key:
        """The key of a task's training."""
        fingerprint, recipe = self.recipes[task.proxy]
        return Key.of(
            self.kind,
            architecture=space(self.space).architecture(task.architecture).name,
            proxy=fingerprint,
            seed=task.seed,
            recipe=recipe,
        )

    @property
    def kind(self) -> str:
        """That of every trial of the space."""
        return f"nas {self.space}"

    @property
    def proxies(self) -> list[str]:
        """The names of the proxies."""
        return [name for name in self.recipes if name != FREE]


@dataclass(frozen=True, eq=False)
class SearchBench:
    """All that the trainings of a search share."""

    space: str
    num_classes: int
    regime: Regime
    proxies: dict[str, Proxy]
    held_out: Images
    """Training images that no network is trained on."""
    preprocess: Preprocess
    """For the mini-batch of the baselines; a proxy has its own."""
    test: Images | None = None
    """For a reference alone: its networks are tested as well."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def keys(self) -> Keys:
        """What its trainings are called."""
        images = f"held_out={len(self.held_out)}:{self.held_out.fingerprint[:8]}"
        recipes = {FREE: (FREE, f"baselines batch={_FREE_BATCH} {images} {self.preprocess.name}")}
        images += f" test={self.test.fingerprint[:8]}" if self.test else ""
        for name, proxy in self.proxies.items():
            regime = replace(self.regime, protocol=proxy.protocol(self.regime.protocol))
            recipes[name] = proxy.fingerprint, f"{regime.text()} {images}"
        return Keys(self.space, recipes)

    def to(self, device: torch.device) -> Self:
        """The same with everything that trainings read on `device`."""
        proxies = {name: proxy.to(device) for name, proxy in self.proxies.items()}
        return replace(self, proxies=proxies, preprocess=self.preprocess.to(device), device=device)

    def key(self, task: SearchTask) -> Key:
        """What the training of a task is called in the store."""
        return self.keys.of(task)

    def name(self, task: SearchTask) -> str:
        """A training in a few words, for messages."""
        return f"`{space(self.space).architecture(task.architecture).name}` on `{task.proxy}`"

    def run(self, task: SearchTask) -> dict[str, Any]:
        """Do a task: its `scores` by name, and the training's `curve` of losses.

        A training that diverges is scored NaN and flagged: `scores["diverged"]` is 1.
        """
        architecture = space(self.space).architecture(task.architecture)
        if task.proxy == FREE:
            return {"curve": {}, "scores": self._free(architecture, task)}
        curve, scores = self._train(architecture, task)
        return {"curve": curve, "scores": scores}

    def _free(self, architecture: Any, task: SearchTask) -> dict[str, float]:
        """The baselines, of the network at its full size: they cost next to nothing."""
        images, labels = (
            part[:_FREE_BATCH].to(self.device)
            for part in (self.held_out.pixels, self.held_out.labels)
        )
        return baselines.scores(
            architecture, self.preprocess.apply(images), labels, self.num_classes, seed=task.seed
        )

    def _train(
        self, architecture: Any, task: SearchTask
    ) -> tuple[dict[str, list[float]], dict[str, float]]:
        proxy = self.proxies[task.proxy]
        protocol, shape = proxy.protocol(self.regime.protocol), self.held_out.shape
        network = architecture.build(shape, self.num_classes, **self.regime.sizes).to(self.device)
        initialise(network, derive(task.seed, "nas/weights"), architecture.index)
        # On a CPU these networks are no faster compiled: a step of a cell takes twice as long, of half the ConvNets longer too.
        passed = (
            3 * protocol.epochs * len(proxy) * shape[1] * shape[2]
            if self.device.type == "cuda"
            else 0
        )
        fast = accelerate(network, passed / _COMPILING_COSTS, self.device)
        losses, diverged, seed = (
            Losses(proxy, protocol),
            False,
            derive(task.seed, "nas/train", architecture.index),
        )
        augment = make_augment(protocol.augment, proxy.preprocess)
        try:
            train(
                fast,
                proxy.images,
                proxy.labels,
                protocol,
                seed,
                augment=augment,
                prepare=proxy.prepare(),
                watch=losses,
            )
        except Diverged:
            diverged = True
        if self.regime.statistics == "proxy":
            settle(network, proxy, seed)
        by_batch = self.regime.statistics == "batch"
        accuracy, held_loss = look(fast, self.held_out, proxy.preprocess, by_batch=by_batch)
        curve = losses.curve()
        scores = {
            "accuracy": accuracy,
            "held_loss": held_loss,
            "summed_loss": sum(curve) - losses.missing(curve),
        }
        if self.test:
            scores["test"] = look(fast, self.test, proxy.preprocess, by_batch=by_batch)[0]
        if diverged or not all(map(math.isfinite, (*curve, held_loss))):
            return {"loss": curve}, {**dict.fromkeys(scores, math.nan), "diverged": 1.0}
        return {"loss": curve}, {**scores, "diverged": 0.0}


class Losses:
    """The mean training loss of each pass, kept while `train` is watched; each image before the step it gives rise to."""

    def __init__(self, proxy: Proxy, protocol: Protocol) -> None:
        self._labels, self._seen = proxy.labels, 0
        self._sums = torch.zeros(
            max(1, protocol.epochs), dtype=torch.float64, device=proxy.labels.device
        )

    def __call__(self, chosen: Tensor, logits: Tensor) -> None:
        self._sums[self._seen // len(self._labels)] += F.cross_entropy(
            logits, self._labels[chosen], reduction="sum"
        )
        self._seen += len(chosen)

    def curve(self) -> list[float]:
        """The means; of a pass broken off, over the images it saw."""
        passes = math.ceil(self._seen / len(self._labels))
        counts = torch.full((passes,), float(len(self._labels)), dtype=torch.float64)
        if passes:
            counts[-1] -= passes * len(self._labels) - self._seen
        return (self._sums[:passes].cpu() / counts).tolist()

    def missing(self, curve: list[float]) -> float:
        """What the last pass must not add to the sum, for the share of it that was not made."""
        return curve[-1] * (len(curve) - self._seen / len(self._labels)) if curve else 0.0


@torch.no_grad()
def settle(network: nn.Module, proxy: Proxy, seed: int) -> None:
    """Set BatchNorm's averages to those of the proxy's images (at most 2,000) under the present weights."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
    network.train()
    order = torch.randperm(len(proxy), generator=generator(seed, "nas/statistics"))[
        :_STATISTICS_IMAGES
    ]
    prepare = proxy.prepare() or (lambda batch: batch)
    for chosen in order.chunk(math.ceil(len(order) / _STATISTICS_BATCH)):  # of equal sizes
        network(prepare(proxy.images[chosen.to(proxy.images.device)]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def look(
    network: nn.Module, images: Images, preprocess: Preprocess, *, by_batch: bool = False
) -> tuple[float, float]:
    """The accuracy in [0, 1] and the mean cross-entropy on `images`; `by_batch` normalises by the images' own statistics."""
    device = preprocess.mean.device
    network.train(by_batch)
    parts = _STATISTICS_BATCH if by_batch else _TEST_BATCH[device.type]
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    for pixels, labels in zip(
        images.pixels.split(parts), images.labels.to(device).split(parts), strict=True
    ):
        logits = network(preprocess.apply(pixels.to(device)))
        totals[0] += (logits.argmax(dim=1) == labels).sum()
        totals[1] += F.cross_entropy(logits, labels, reduction="sum")
    accuracy, loss = (totals / len(images)).tolist()
    return accuracy, loss
