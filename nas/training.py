"""The training of one candidate on one proxy, and the scores that it gives the candidate.

A proxy is a set of images that stands for the whole training set: a condensed set, random real
images, or the whole set with training stopped early. The network that is trained on it is scored by
held-out *training* images (never test images), and by its own training losses.

A `SearchBench` holds all that the trainings of a search share, and is sent to each worker once. A
`SearchTask` names one training. The result of a task depends only on the bench and the task.
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
from condense.networks.accelerate import InBfloat16
from condense.randomness import derive, generator
from condense.study.trials import Key
from condense.training.protocol import Protocol
from condense.training.train import Diverged, train
from nas import free as baselines
from nas.proxies import FREE, Proxy
from nas.regime import Regime
from nas.spaces import fresh, space

SCORES = {"accuracy": 1, "held_loss": -1, "summed_loss": -1}
"""The scores of a training, by name: 1 if higher is better, -1 if lower is.

They are the accuracy and the cross-entropy on the held-out training images, and the sum over the
epochs of the mean training loss (Ru et al., "Speedy Performance Estimation for Neural Architecture
Search", NeurIPS 2021)."""
FREE_BATCH = 64
"""Images by which the baselines are computed."""
_TEST_BATCH = {"cpu": 50, "cuda": 1000}
"""Images that are tested at once."""
_STATISTICS_BATCH, _STATISTICS_IMAGES = 250, 2000


@dataclass(frozen=True, order=True)
class SearchTask:
    """One training: of which candidate, on which proxy, from which seed.

    >>> sorted([SearchTask(1, 5, "random"), SearchTask(0, 7, "random")])[0].architecture
    7
    """

    seed: int
    architecture: int
    """The index of the candidate in its space."""
    proxy: str
    """The name of the proxy, or `FREE` for the baselines."""


@dataclass(frozen=True)
class Keys:
    """The keys of the trainings of a search in a store.

    Two searches that need the same training have the same key for it.

    >>> keys = Keys("convnet720", {"random": ("0123", "epochs=20")})
    >>> keys.of(SearchTask(seed=0, architecture=400, proxy="random")).kind
    'nas convnet720'
    """

    space: Any
    """The name of a space, or a space itself."""
    recipes: dict[str, tuple[str, str]]
    """For each proxy, and for `FREE`: its fingerprint, and what else a training depends on."""

    def of(self, task: SearchTask) -> Key:
        """The key of a task."""
        fingerprint, recipe = self.recipes[task.proxy]
        architecture = space(self.space).architecture(task.architecture)
        name = getattr(architecture, "identity", architecture.name)
        facts = {"architecture": name, "proxy": fingerprint, "seed": task.seed, "recipe": recipe}
        return Key.of(self.kind, **facts)

    @property
    def kind(self) -> str:
        """The kind of all trials of the space."""
        return f"nas {space(self.space).NAME}"

    @property
    def proxies(self) -> list[str]:
        """The names of the proxies."""
        return [name for name in self.recipes if name != FREE]


@dataclass(frozen=True, eq=False)
class SearchBench:
    """All that the trainings of a search share, and how one of them is done.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from nas.proxies import make_proxies
    >>> digits, regime = load_dataset("digits"), Regime(protocol=Protocol(epochs=1))
    >>> rest, preprocess = digits.hold_out(100, seed=0), make_preprocess("standard", digits)
    >>> bench = SearchBench(
    ...     space="convnet720",
    ...     num_classes=10,
    ...     regime=regime,
    ...     proxies=make_proxies(["random:1"], digits, rest, preprocess, regime.protocol),
    ...     held_out=rest.test,
    ...     preprocess=preprocess,
    ... )
    >>> sorted(bench.run(SearchTask(seed=0, architecture=0, proxy="random:1"))["scores"])
    ['accuracy', 'diverged', 'held_loss', 'summed_loss']
    """

    space: Any
    """The name of a space, or a space itself."""
    num_classes: int
    regime: Regime
    proxies: dict[str, Proxy]
    held_out: Images
    """Training images that no network is trained on; the first of them serve the baselines."""
    preprocess: Preprocess
    """The transform of the images for the baselines; each proxy has its own transform."""
    test: Images | None = None
    """The test images, for a reference run alone."""
    scored: bool = True
    """Whether trained networks are scored by `held_out`.

    Otherwise only their training losses count. The images then serve the baselines alone, and
    proxies may have them too."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def keys(self) -> Keys:
        """The keys of its trainings."""
        images = f"held_out={len(self.held_out)}:{self.held_out.fingerprint[:8]}"
        free = f"{' '.join(baselines.BASELINES)} batch={FREE_BATCH} {images}"
        recipes = {FREE: (FREE, f"{free} {self.preprocess.name}")}
        images = images if self.scored else "held_out=0"
        images += f" test={self.test.fingerprint[:8]}" if self.test else ""
        for name, proxy in self.proxies.items():
            regime = replace(self.regime, protocol=proxy.protocol(self.regime.protocol))
            recipes[name] = proxy.fingerprint, f"{regime.text()} {images}"
        return Keys(self.space, recipes)

    def to(self, device: torch.device) -> Self:
        """The same bench, with everything that trainings read on `device`."""
        proxies = {name: proxy.to(device) for name, proxy in self.proxies.items()}
        return replace(self, proxies=proxies, preprocess=self.preprocess.to(device), device=device)

    def key(self, task: SearchTask) -> Key:
        """The key of a task in the store."""
        return self.keys.of(task)

    def name(self, task: SearchTask) -> str:
        """The candidate and the proxy of a task, for messages."""
        return f"`{space(self.space).architecture(task.architecture).name}` on `{task.proxy}`"

    def run(self, task: SearchTask) -> dict[str, Any]:
        """Do a task; returns `scores` by name, and the `curve` of the training losses.

        If a training diverges, its scores are NaN, and `scores["diverged"]` is 1.
        """
        architecture = space(self.space).architecture(task.architecture)
        with torch.random.fork_rng(devices=[]):
            # For layers that draw: dropout in networks of a user's own.
            torch.manual_seed(derive(task.seed, "nas/layers", architecture.index))
            if task.proxy == FREE:
                return {"curve": {}, "scores": self._free(architecture, task)}
            curve, scores = self._train(architecture, task)
        return {"curve": curve, "scores": scores}

    def _free(self, architecture: Any, task: SearchTask) -> dict[str, float]:
        """The baselines of the network at its full size, since they cost next to nothing."""
        images, labels = (
            part[:FREE_BATCH].to(self.device)
            for part in (self.held_out.pixels, self.held_out.labels)
        )
        return baselines.scores(
            architecture, self.preprocess.apply(images), labels, self.num_classes, seed=task.seed
        )

    def _train(
        self, architecture: Any, task: SearchTask
    ) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Train a candidate on a proxy; returns the curve of its losses, and its scores."""
        proxy = self.proxies[task.proxy]
        protocol, shape = proxy.protocol(self.regime.protocol), self.held_out.shape
        weights = derive(task.seed, "nas/weights")
        sizes = self.regime.sizes
        network = fresh(architecture, shape, self.num_classes, weights, self.device, **sizes)
        fast = quick(network, self.device)
        losses, diverged = Losses(proxy, protocol), False
        seed = derive(task.seed, "nas/train", architecture.index)
        augment = make_augment(protocol.augment, proxy.preprocess)
        try:
            how: dict[str, Any] = {"prepare": proxy.prepare(), "watch": losses, "augment": augment}
            train(fast, proxy.images, proxy.labels, protocol, seed, **how)
        except Diverged:
            diverged = True
        if self.regime.statistics == "proxy" and self.scored:
            settle(network, proxy, seed)
        by_batch = self.regime.statistics == "batch"
        curve = losses.curve()
        scores = {"summed_loss": sum(curve) - losses.missing(curve)}
        if self.scored:
            held = look(fast, self.held_out, proxy.preprocess, by_batch=by_batch)
            scores |= dict(zip(("accuracy", "held_loss"), held, strict=True))
        if self.test:
            scores["test"] = look(fast, self.test, proxy.preprocess, by_batch=by_batch)[0]
        if diverged or not all(map(math.isfinite, (*curve, *scores.values()))):
            return {"loss": curve}, {**dict.fromkeys(scores, math.nan), "diverged": 1.0}
        return {"loss": curve}, {**scores, "diverged": 0.0}


def quick(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` as a search trains it: on a GPU in bfloat16, step by step as CUDA graphs.

    It is never compiled. A search trains each network once, and compiling takes longer than that.
    On a CPU compiled cells, and half of the ConvNets, would even be slower.

    >>> network = nn.Linear(2, 3)
    >>> quick(network, torch.device("cpu")) is network
    True
    """
    return network if device.type == "cpu" else InBfloat16(network, device)


class Losses:
    """The mean training loss of each epoch, for the `watch` argument of `train`.

    The loss of an image is that before the step in which it is used.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> images = digits.train.subset(torch.arange(2))
    >>> preprocess = make_preprocess("standard", digits)
    >>> proxy = Proxy("two", images.pixels, images.labels, preprocess, images.fingerprint)
    >>> losses = Losses(proxy, Protocol(epochs=1))
    >>> losses(torch.tensor([0, 1]), torch.zeros(2, 10))
    >>> [round(loss, 4) for loss in losses.curve()]  # log(10)
    [2.3026]
    """

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
        """The mean loss of each epoch; in an epoch that was stopped early, over the images seen."""
        passes = math.ceil(self._seen / len(self._labels))
        counts = torch.full((passes,), float(len(self._labels)), dtype=torch.float64)
        if passes:
            counts[-1] -= passes * len(self._labels) - self._seen
        return (self._sums[:passes].cpu() / counts).tolist()

    def missing(self, curve: list[float]) -> float:
        """The part of the last epoch's mean that belongs to the images it did not see.

        The sum of the losses must not contain it.
        """
        return curve[-1] * (len(curve) - self._seen / len(self._labels)) if curve else 0.0


@torch.no_grad()
def settle(network: nn.Module, proxy: Proxy, seed: int) -> None:
    """Set BatchNorm's averages to those of the proxy's images, at most 2,000 drawn by `seed`.

    The averages are computed with the present weights of the network.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> images, preprocess = digits.train, make_preprocess("standard", digits)
    >>> proxy = Proxy("whole", images.pixels, images.labels, preprocess, images.fingerprint)
    >>> norm = nn.BatchNorm2d(1)
    >>> settle(norm, proxy, seed=0)
    >>> norm.running_mean.abs().item() < 0.1  # the digits are standardised
    True
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # this makes the averages those of all batches alike
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
    """The accuracy in [0, 1] and the mean cross-entropy of the network on `images`.

    With `by_batch`, BatchNorm uses the statistics of the images, 250 at a time, in place of its
    averages.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> _ = nn.init.zeros_(network[1].weight), nn.init.zeros_(network[1].bias)
    >>> accuracy, loss = look(network, digits.test, make_preprocess("standard", digits))
    >>> round(loss, 4)  # log(10)
    2.3026
    """
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
