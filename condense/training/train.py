"""Train one network on a set of images by a named protocol, and measure its accuracy.

This is the inner loop of evaluation, of coreset selection and of architecture search. It needs no
`DataLoader`: the images are one tensor, and a batch is an indexing of it.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.data.augment import DSA, Augment, Chain, make_augment
from condense.data.cutmix import cutmix
from condense.errors import UserError
from condense.networks.accelerate import (
    LAYOUT,
    Accelerated,
    InBlocks,
    block_size,
    joins_images,
)
from condense.networks.graph import Graphed, has_graphs
from condense.randomness import generator
from condense.training.optimizers import SGD, AdamW
from condense.training.protocol import Protocol

_CHECK_EVERY = 50  # passes between checks for divergence; a check waits for the device
# On a CPU, the maps of 50 images stay in cache and below the size that the allocator returns to
# the system each time, which is twice as fast as 250.
_TEST_BATCH_CPU = 50
_TEST_BATCH_GPU = 1000


class Diverged(UserError):
    """The weights of a network became infinite or NaN during training.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> protocol = Protocol(epochs=50, lr=1e6, augment="none", loss="squared-error")
    >>> train(network, torch.ones(2, 1, 2, 2), torch.tensor([0, 1]), protocol, seed=0)
    Traceback (most recent call last):
    condense.training.train.Diverged: training diverged: after pass 50 of 50 ...
    """


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: Protocol,
    seed: int,
    *,
    augment: Augment | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> None:
    """Train `network` in place, starting from its present weights, on its own device.

    Parameters
    ----------
    images: float32 [N, ch, H, W], or anything that `prepare` turns into that. They may be stored
        elsewhere, as large real sets are: each batch is moved to the device of the network.
    labels: int64 [N], or float32 [N, C]: probabilities, or any numbers for the squared error.
    seed: together with the pass and the step, it determines order and augmentation.
    augment: replaces the augmentation that `protocol` names.
    prepare: applied to each batch on the device before augmentation, for example
        `preprocess.apply` if `images` are uint8.
    watch: called before each step with the batch's indices, int64 [B], and logits, [B, C], which
        are overwritten after it returns.

    On a GPU that holds the images, each step is one CUDA graph. Raises `Diverged` if the weights
    become infinite or NaN, and `UserError` for labels that the loss does not accept.

    >>> from condense import load_dataset
    >>> from condense.networks.build import build
    >>> digits = load_dataset("digits")
    >>> network = build("convnet-d2-w8", digits.shape, num_classes=10)
    >>> protocol = Protocol(epochs=4, lr=0.1, augment="none")
    >>> images = digits.train.pixels.float() / 255
    >>> train(network, images, digits.train.labels, protocol, seed=0)
    >>> accuracy(network, digits.test.pixels.float() / 255, digits.test.labels) > 0.5
    True
    """
    check_labels(labels, protocol)
    augment = augment or make_augment(protocol.augment)
    training = _Training(network, images, labels, protocol, seed, augment, prepare)
    run = training.graphed() or training.step
    steps = protocol.length(len(images))
    epochs, step = math.ceil(steps / protocol.steps_of_a_pass(len(images))), 0
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images), generator=generator(seed, "order", epoch))
        for chosen in order.to(images.device).split(protocol.batch)[: steps - step]:
            logits = run(chosen, step, protocol.rate(epoch, step, steps))
            if watch:
                watch(chosen.to(training.device), logits)
            step += 1
        if protocol.schedule == "drop" and epoch == protocol.drop_after:
            training.optimizer.restart()
        if epoch % _CHECK_EVERY == 0 or epoch == epochs:
            _check_finite(network, protocol, epoch)
    network.zero_grad()


class _Training:
    """A network, what it is trained on, and the step that both take part in."""

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        protocol: Protocol,
        seed: int,
        augment: Augment,
        prepare: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.device = _device_of(network)
        self._network, self._images, self._labels = network, images, labels.to(self.device)
        self._loss, self._cutmix, self._seed = protocol.loss, protocol.cutmix, seed
        self._augment, self._prepare = augment, prepare or (lambda batch: batch)
        self._layout = _layout(network, self.device)
        self._separable = not joins_images(network)
        network.to(memory_format=self._layout).train()
        self.optimizer = _optimizer(list(network.parameters()), protocol)

    def step(
        self,
        chosen: Tensor,
        number: int | Tensor,
        rate: float | Tensor,
        augment: Augment | None = None,
    ) -> Tensor:
        """Take a step on the images `chosen`, int64 [B]; returns their logits before it, [B, C].

        `augment` is the augmentation of this step, where it is known to be simpler.
        """
        batch = self._prepare(self._images[chosen].to(self.device))
        batch = (augment or self._augment).training(batch, self._seed, number)
        labels = self._labels[chosen.to(self.device)]
        others, own = labels, None
        if self._cutmix:
            batch, partners, own = cutmix(batch, self._cutmix, self._seed, number)
            others = labels[partners]
        batch = batch.contiguous(memory_format=self._layout)
        self._network.zero_grad()
        # If images do not affect each other, the gradient of a batch is the sum of the gradients
        # of its blocks.
        block = block_size(batch, self.device) if self._separable else len(batch)
        logits = []
        blocks = zip(*(each.split(block) for each in (batch, labels, others)), strict=True)
        for part, truth, other in blocks:
            scores = self._network(part)
            loss = _loss(self._loss, scores, truth)
            if own is not None:
                loss = own * loss + (1 - own) * _loss(self._loss, scores, other)
            (loss / len(batch)).backward()
            logits.append(scores.detach())
        self.optimizer.step(rate)
        return torch.cat(logits)

    def graphed(self) -> Callable[[Tensor, int, float], Tensor] | None:
        """The step as CUDA graphs, one for each augmentation that may be drawn.

        None where images have to be fetched, or are augmented on the host, which a graph cannot
        hold.
        """
        fetched, whole = self._images.device != self.device, self._augment
        if not has_graphs(self.device) or fetched or not isinstance(whole, DSA | Chain):
            return None
        network, graphs = self._network, dict[Augment, Graphed[Tensor]]()
        state = [*network.parameters(), *network.buffers(), *self.optimizer.state]

        def run(chosen: Tensor, number: int, rate: float) -> Tensor:
            drawn = whole.drawn(self._seed, number)
            if drawn not in graphs:
                graphs[drawn] = Graphed(partial(self.step, augment=drawn), state)
            return graphs[drawn](chosen, number, rate)

        return run


def _optimizer(parameters: list[nn.Parameter], protocol: Protocol) -> SGD | AdamW:
    if protocol.optimizer == "adamw":
        return AdamW(parameters, protocol.momentum, protocol.weight_decay)
    return SGD(parameters, protocol.momentum, protocol.weight_decay, protocol.nesterov)


@torch.inference_mode()
def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch: int | None = None,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """The share, in [0, 1], of `images` whose largest logit is that of their label (int64 [N]).

    The network is in evaluation mode meanwhile, and in its former mode afterwards. `images` and
    `prepare` are as for `train`. `batch` is the number of images per forward pass; by default it
    suits the device.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    >>> with torch.no_grad():
    ...     _ = network[1].weight.copy_(torch.tensor([[-1.0], [1.0]])), network[1].bias.zero_()
    >>> images = torch.tensor([-2.0, 3.0, 4.0]).view(3, 1, 1, 1)
    >>> accuracy(network, images, torch.tensor([0, 1, 0])) * 3
    2.0
    """
    device, training = _device_of(network), network.training
    batch = batch or (_TEST_BATCH_CPU if device.type == "cpu" else _TEST_BATCH_GPU)
    network.eval()
    # A compiled network would be compiled again for the smaller last batch.
    compiled = isinstance(network, Accelerated)
    answer = InBlocks(network, min(batch, len(images))) if compiled else network
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for part, truth in zip(images.split(batch), labels.split(batch), strict=True):
        part = part.to(device)
        part = prepare(part) if prepare else part
        logits = answer(part.contiguous(memory_format=_layout(network, device)))
        correct += (logits.argmax(dim=1) == truth.to(device)).sum()
    network.train(training)
    return correct.item() / len(images)


def check_labels(labels: Tensor, protocol: Protocol) -> None:
    """Raise `UserError` if labels are not probabilities but the loss of `protocol` needs them.

    >>> check_labels(torch.tensor([[0.9, -0.1]]), Protocol())
    Traceback (most recent call last):
    condense.errors.UserError: the labels are regression targets, not probabilities: ...
    """
    if protocol.loss != "cross-entropy" or labels.ndim == 1:
        return
    if (labels < 0).any() or ((labels.sum(dim=1) - 1).abs() > 1e-3).any():
        raise UserError(
            "the labels are regression targets, not probabilities: train on them by the protocol "
            "`kip` (--protocol kip)"
        )


def _loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss, summed over a batch."""
    if name == "cross-entropy":
        return F.cross_entropy(logits, labels, reduction="sum")
    if labels.ndim == 1:
        labels = F.one_hot(labels, logits.shape[1]) - 1 / logits.shape[1]
    return 0.5 * (logits - labels).square().sum()


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory layout to train in.

    On a CPU a training step in channels-last takes as long as otherwise with InstanceNorm, and 3/4
    as long with BatchNorm. A test takes less time in both cases.
    """
    fused = device.type == "cpu" or isinstance(network, Accelerated)
    return LAYOUT[device.type] if fused else torch.contiguous_format


def _check_finite(network: nn.Module, protocol: Protocol, epoch: int) -> None:
    """Raise `Diverged` if a weight is infinite or NaN.

    A loss that was not finite even once makes the weights so for good, which is why only the
    weights are checked.
    """
    with torch.no_grad():
        sums = torch.stack([parameter.sum() for parameter in network.parameters()])
    if not sums.isfinite().all():
        raise Diverged(
            f"training diverged: after pass {epoch} of {protocol.epochs} the "
            f"weights are not finite; lower the learning rate (now {protocol.lr:g})"
        )
