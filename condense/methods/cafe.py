"""CAFE: align the mean features of every layer, and classify real images by these means.

Wang, Zhao, Peng, Zhu, Yang, Wang, Huang, Bilen, Wang and You, "CAFE: Learning to Condense Dataset
by Aligning Features", CVPR 2022. With f_l the features of layer l, e the embedding and B real
images of each class:

    alignment      = sum over classes k and layers l of w_l || mean_real f_kl - mean_syn f_kl ||^2
    discrimination = - sum over classes k and real images x of class k of
                     log softmax(<e(x), mean_syn e_1>, ..., <e(x), mean_syn e_C>)_k
    loss           = scale * (alignment + beta * discrimination)

In the paper all w_l are 1. The authors' code weighs the three maps of its network by 0.1, 0.1 and
1, and the embedding by 2, since it enters twice.

The two loops adapt to the accuracy of the network on real query images. After each update of the
images, the network is trained on them until this accuracy has changed by more than `inner_bound`.
The accuracy is also measured after each update of the images: once it has changed by less than
`outer_bound`, a fresh network replaces the present one. Both rules use the last `queue` accuracies.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from condense.methods.base import Learner, Loop, Looping, Problem
from condense.networks import build as networks
from condense.networks.accelerate import block_size, joins_images
from condense.networks.base import widen
from condense.randomness import derive, generator
from condense.settings import above, at_least, require

_TRAIN_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class CAFE(Looping):
    """The losses and loops of the paper.

    A step is one update of the images and the inner loop that follows it.

    >>> from condense import Recipe, condense, load_dataset
    >>> method = CAFE(query=4, most_passes=2)
    >>> recipe = Recipe(name="mine", method=method, network="convnet-d2-w8", real_batch=8, steps=1)
    >>> condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True).images.shape
    torch.Size([10, 1, 8, 8])
    """

    name: ClassVar[str] = "cafe"

    loss_scale: float = 1.0
    """Factor of the whole loss. At a fixed learning rate it scales the steps of the pixels."""
    discrimination: float = 0.01
    """beta, the weight of the discrimination loss, which is a sum over all real images."""
    layer_weights: tuple[float, ...] = (0.1, 0.1, 1.0, 2.0)
    """The weights w_l of the maps, in their order, and last that of the embedding.

    A network with fewer maps takes the last ones of these, a deeper network the first one for each
    further map at its start. `[1]` weighs all alike, as the paper does."""
    outer_bound: float = 0.04
    """lambda_1: a network is replaced when its accuracies differ by less than this."""
    inner_bound: float = 0.03
    """lambda_2: an inner loop ends when its accuracies differ by more than this."""
    queue: int = 10
    """The number of last accuracies that are compared."""
    query: int = 128
    """Real images of each class on which the accuracy is measured."""
    most_passes: int = 100
    """The most passes of an inner loop.

    The paper has no such bound, but on images that teach nothing the accuracy never changes."""
    network_lr: float = 0.01
    """The learning rate of the inner loop: SGD without momentum, in batches of 256."""

    def __post_init__(self) -> None:
        above(0, self, "loss_scale", "network_lr")
        at_least(0, self, "discrimination")
        at_least(1, self, "query", "most_passes")
        at_least(2, self, "queue")
        weighs = bool(self.layer_weights) and min(self.layer_weights) >= 0
        wanted = "one number or more, each 0 or more"
        require("layer_weights", self.layer_weights, weighs, wanted)

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """CAFE+DSA: from noise, rate 0.1, 2,000 networks, each used for at least ten updates."""
        return {"steps": 20_000, "lr": 0.1, "init": "noise"}

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def alignment(
    real: list[Tensor], synthetic: list[Tensor], weights: tuple[float, ...] = (1.0,)
) -> Tensor:
    """The alignment loss of the mean features [C, D_l] of every layer: a scalar.

    `weights` are aligned with the layers at the last one; the first weight is that of all layers
    before it, too.

    >>> real, synthetic = [torch.ones(2, 3)] * 3, [torch.zeros(2, 3)] * 3
    >>> alignment(real, synthetic), alignment(real, synthetic, weights=(1.0, 10.0))
    (tensor(18.), tensor(72.))
    """
    weights = (weights[0],) * (len(real) - len(weights)) + weights[-len(real) :]
    terms = zip(weights, real, synthetic, strict=True)
    return torch.stack([weight * (r - s).square().sum() for weight, r, s in terms]).sum()


def discrimination(real: Tensor, centres: Tensor) -> Tensor:
    """The discrimination loss of the embeddings [C, B, D] of real images: a scalar.

    They are classified by the `centres` [C, D] of the classes.

    >>> far = 100 * torch.eye(2)
    >>> discrimination(far[:, None], centres=far)
    tensor(0.)
    """
    logits = real.flatten(0, 1) @ centres.T
    truth = torch.arange(len(real), device=real.device).repeat_interleave(real.shape[1])
    return functional.cross_entropy(logits, truth, reduction="sum")


class _Learner(Loop):
    method: CAFE

    def __init__(self, method: CAFE, problem: Problem) -> None:
        super().__init__(method, problem)
        self._real, self._network = problem.real(), problem.network()
        self._truth = self.classes.repeat_interleave(self.per_class)
        self._momentum = torch.zeros_like(self.images)
        self._blocks = [self.classes]
        if not joins_images(self._network):
            size = max(1, block_size(self.images, self.device) // self.per_class)
            self._blocks = list(self.classes.split(size))
        self._used = torch.zeros((), dtype=torch.int64)  # networks before this one
        # The accuracies after the last updates of the images; NaN if there are not enough yet.
        self._queue = torch.full((method.queue,), torch.nan)
        networks.initialise(self._network, self.seed, 0)

    def step(self, step: int) -> dict[str, Tensor]:
        """Update the images, then run the inner loop or start with a fresh network."""
        parts = self._update(step)
        self._queue = torch.cat([self._queue[1:], torch.tensor([self._accuracy(step, 0)])])
        if self._queue.isfinite().all() and _range(self._queue.tolist()) < self.method.outer_bound:
            self._used += 1
            self._queue.fill_(torch.nan)
            networks.initialise(self._network, self.seed, int(self._used))
        else:
            self._train(step)
        return parts

    def tensors(self) -> dict[str, Tensor]:
        """Images, momentum, the network with its number, and the accuracies."""
        weights = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        counts = {"used": self._used, "queue": self._queue}
        return {"images": self.images, "momentum": self._momentum, **counts, **weights}

    def _update(self, step: int) -> dict[str, Tensor]:
        """Move the images by SGD with momentum.

        The learning rate is halved at six, eight and nine tenths of the run.
        """
        self._network.requires_grad_(False)
        with torch.no_grad():
            real_means, real = self._real_features(step)
        leaf = self.images.detach().requires_grad_()
        drawn = self.augment.matching(leaf, self.classes, self.seed, step).unflatten(
            0, (len(self.classes), -1)
        )
        # Only the means of a class are kept. The backward pass computes each block of classes
        # again, which keeps memory small.
        blocks = [
            checkpoint(self._means, drawn[block], use_reentrant=False) for block in self._blocks
        ]
        means = [torch.cat(layer) for layer in zip(*blocks, strict=True)]
        scale, beta = self.method.loss_scale, self.method.discrimination
        parts = {
            "alignment": scale * alignment(real_means, means, self.method.layer_weights),
            "discrimination": scale * beta * discrimination(real, means[-1]),
        }
        (gradient,) = torch.autograd.grad(torch.stack(list(parts.values())).sum(), leaf)
        halvings = sum(step >= part * self.recipe.steps for part in (0.6, 0.8, 0.9))
        lr = self.recipe.lr * 0.5**halvings
        self._momentum.mul_(self.recipe.momentum).add_(gradient)
        self.images.sub_(self._momentum, alpha=lr)
        return {name: part.detach() for name, part in parts.items()}

    def _real_features(self, step: int) -> tuple[list[Tensor], Tensor]:
        """The mean features [C, D_l] of every layer and all embeddings [C, B, D].

        Classes are processed one at a time if they do not affect each other.
        """
        drawn = self._real.batch(self.classes, step)
        drawn = self.augment.matching(drawn, self.classes, self.seed, step).unflatten(
            0, (len(self.classes), -1)
        )
        blocks = [self.classes] if joins_images(self._network) else self.classes.split(1)
        seen = [self._features(drawn[block]) for block in blocks]
        layers = zip(*seen, strict=True)
        means = [torch.cat([part.mean(dim=1) for part in layer]) for layer in layers]
        return means, torch.cat([features[-1] for features in seen])

    def _means(self, images: Tensor) -> list[Tensor]:
        return [features.mean(dim=1) for features in self._features(images)]

    def _features(self, images: Tensor) -> list[Tensor]:
        """The features of images [c, n, ch, H, W]: all maps, then the embedding, [c, n, D_l]."""
        maps, embedding = self._network.observe(images.flatten(0, 1))
        return [
            widen(layer).flatten(1).unflatten(0, images.shape[:2]) for layer in (*maps, embedding)
        ]

    def _train(self, step: int) -> None:
        """The inner loop: passes over the images until the accuracy has changed enough."""
        self._network.requires_grad_(True)
        weights: list[Tensor] = list(self._network.parameters())
        seen: list[float] = []
        for number in range(1, self.method.most_passes + 1):
            draw = generator(self.seed, "cafe order", step, number)
            order = torch.randperm(len(self.images), generator=draw)
            seed = derive(self.seed, "cafe augment", step, number)
            for turn, chosen in enumerate(order.to(self.images.device).split(_TRAIN_BATCH)):
                batch = self.augment.training(self.images[chosen], seed, turn)
                loss = functional.cross_entropy(self._network(batch), self._truth[chosen])
                gradients = torch.autograd.grad(loss, weights)
                with torch.no_grad():
                    torch._foreach_add_(weights, gradients, alpha=-self.method.network_lr)
            seen.append(self._accuracy(step, number))
            last = seen[-self.method.queue :]
            if len(last) == self.method.queue and _range(last) > self.method.inner_bound:
                return

    @torch.no_grad()
    def _accuracy(self, step: int, number: int) -> float:
        """The share of real query images that the network classifies correctly.

        `number` is the number of passes in this step's inner loop so far.
        """
        purpose = f"cafe query {number}"
        correct = torch.zeros((), device=self.images.device)
        for c in self.classes.split(1):
            images = self._real.batch(c, step, per_class=self.method.query, purpose=purpose)
            correct += (self._network(images).argmax(dim=1) == c).sum()
        return float(correct) / (len(self.classes) * self.method.query)


def _range(values: list[float]) -> float:
    return max(values) - min(values)
