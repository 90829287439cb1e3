"""Train one network on a set of images, by a named protocol, and measure its accuracy.

This is the inner loop of evaluation, of coreset selection and of architecture search. It has no `DataLoader`: the
images are one tensor, a batch is an indexing of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.data.augment import DSA, Augment, dsa_for, make_augment
from condense.errors import UserError, unknown
from condense.networks.accelerate import LAYOUT, Accelerated, block_size, joins_images
from condense.networks.graph import Graphed, has_graphs
from condense.randomness import generator

_CHECK_EVERY = 50  # passes between looks for divergence: a look waits for the device
_TEST_BATCH_CPU = 50  # maps that stay in cache, and below what the allocator maps afresh each time: twice as fast as 250
_TEST_BATCH_GPU = 1000

SCHEDULES = {
    "drop": "after pass `epochs // 2 + 1` a tenth of the rate, and the momentum starts again",
    "cosine": "half a cosine from the rate to 0, step by step",
}


class Diverged(UserError):
    """A training whose weights ceased to be finite."""


LOSSES = {
    "cross-entropy": "of classes, or of probabilities where labels are soft",
    "squared-error": "half the squared distance to the label, of any numbers; a class is 1 at its place, less 1 / C everywhere",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a network is trained on a set: by default SGD on the cross-entropy, as the published sets are evaluated.

    The defaults are those of DC, DSA and DM. Raises `UserError` for a value out of range.
    """

    epochs: int = 1000
    """Passes over the images."""
    batch: int = 256
    """Images per step; the last, shorter batch of a pass is used too."""
    lr: float = 0.01
    """The learning rate that `schedule` starts from."""
    momentum: float = 0.9
    """Momentum, in [0, 1)."""
    weight_decay: float = 5e-4
    """L2 penalty of every weight."""
    augment: str = "dsa"
    """Augmentation of each batch, by name (see `condense.augment`)."""
    schedule: str = "drop"
    """One of `SCHEDULES`."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's."""
    steps: int | None = None
    """Steps after which training ends, in the middle of a pass if need be: for early stopping. None: after `epochs`."""
    loss: str = "cross-entropy"
    """One of `LOSSES`, the mean over a batch."""
    learned_rate: bool = False
    """Whether `condense.evaluate` puts the rate that was learned with a set in place of `lr`."""

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch", self.batch >= 1, "1 or more"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("nesterov", not self.nesterov or self.momentum > 0, "False without momentum"),
            ("steps", self.steps is None or self.steps >= 1, "1 or more"),
        ):
            if not valid:
                raise UserError(f"protocol: `{name}` is {getattr(self, name)}, it must be {wanted}")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)


PROTOCOLS = {
    "dm": Protocol(),
    "datadam-code": Protocol(epochs=1801, batch=64),  # asked for 1,800, its loop runs one more
    "kip": Protocol(loss="squared-error"),
    "mtt": Protocol(learned_rate=True),
}


def protocol_for(name: str, dataset_name: str) -> Protocol:
    """The protocol called `name`, one of `PROTOCOLS`, for a dataset: where images are digits, none is mirrored."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return replace(PROTOCOLS[name], augment=dsa_for(dataset_name))


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
    """Train `network` in place, from its present weights, on its own device.

    Parameters
    ----------
    images: [N, ch, H, W]: float32, or anything `prepare` turns into that. They may stay elsewhere (in a file, say):
        each batch travels to the network's device. Large real sets do; a small set is quicker on the device.
    labels: int64 [N], or float32 [N, C]: probabilities, or for the squared error any numbers.
    seed: with the number of the pass and of the step, it determines order and augmentation.
    augment: in place of the one that `protocol` names.
    prepare: applied to each batch on the device, before augmentation: `preprocess.apply` where `images` are uint8.
    watch: called with indices, int64 [B], and logits, [B, C], of all images of a batch before the step it gave rise to; both
        are good until it returns.

    On a GPU that holds the images, each step is one CUDA graph. Raises `Diverged` when the weights cease to be finite, and
    `UserError` for labels that the loss does not take.
    """
    device = _device_of(network)
    augment = augment or make_augment(protocol.augment)
    check_labels(labels, protocol)
    labels = labels.to(device)
    layout = _layout(network, device)
    separable = not joins_images(network)
    network.to(memory_format=layout).train()
    optimizer = _SGD(network, protocol)

    def take(chosen: Tensor, number: int | Tensor, rate: float | Tensor) -> Tensor:
        """One step on the images `chosen`, int64 [B]; returns their logits before it, [B, C]."""
        batch = images[chosen].to(device)
        batch = augment.training(prepare(batch) if prepare else batch, seed, number).contiguous(
            memory_format=layout
        )
        network.zero_grad()
        # Where no image enters another's maps, the gradient of a batch is the sum of those of its blocks.
        block = block_size(batch, device) if separable else len(batch)
        logits = []
        for part, truth in zip(
            batch.split(block), labels[chosen.to(device)].split(block), strict=True
        ):
            scores = network(part)
            (_loss(protocol.loss, scores, truth) / len(batch)).backward()
            logits.append(scores.detach())
        optimizer.step(rate)
        return torch.cat(logits)

    # A graph holds no work of the host: no images to be fetched, none to be augmented there.
    captured = has_graphs(device) and images.device == device and isinstance(augment, DSA)
    run = (
        Graphed(take, [*network.parameters(), *network.buffers(), *optimizer.velocities])
        if captured
        else take
    )
    step, steps, rate = 0, protocol.epochs * math.ceil(len(images) / protocol.batch), protocol.lr
    steps = min(steps, protocol.steps or steps)
    for epoch in range(1, protocol.epochs + 1):
        order = torch.randperm(len(images), generator=generator(seed, "order", epoch)).to(
            images.device
        )
        for chosen in order.split(protocol.batch):
            if protocol.schedule == "cosine":
                rate = 0.5 * protocol.lr * (1 + math.cos(math.pi * step / steps))
            logits = run(chosen, step, rate)
            if watch:
                watch(chosen.to(device), logits)
            step += 1
            if step == steps:
                break
        if protocol.schedule == "drop" and epoch == protocol.epochs // 2 + 1:
            rate = protocol.lr * 0.1
            optimizer.restart()
        if epoch % _CHECK_EVERY == 0 or step == steps:
            _check_finite(network, protocol, epoch)
        if step == steps:
            break
    network.zero_grad()


@torch.inference_mode()
def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch: int | None = None,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """The share, in [0, 1], of `images` whose largest logit is that of their label (int64 [N]), in evaluation mode.

    `images` and `prepare` are as for `train`. `batch` images are looked at together; None chooses. The network is left
    in the mode it was in.
    """
    device, training = _device_of(network), network.training
    batch = batch or (_TEST_BATCH_CPU if device.type == "cpu" else _TEST_BATCH_GPU)
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for part, truth in zip(images.split(batch), labels.split(batch), strict=True):
        part = part.to(device)
        part = prepare(part) if prepare else part
        logits = network(part.contiguous(memory_format=_layout(network, device)))
        correct += (logits.argmax(dim=1) == truth.to(device)).sum()
    network.train(training)
    return correct.item() / len(images)


def check_labels(labels: Tensor, protocol: Protocol) -> None:
    """Raise a `UserError` where labels are no probabilities, and the loss of `protocol` takes nothing else."""
    if protocol.loss != "cross-entropy" or labels.ndim == 1:
        return
    if (labels < 0).any() or ((labels.sum(dim=1) - 1).abs() > 1e-3).any():
        raise UserError(
            "the labels are regression targets, no probabilities: train on them by the protocol `kip` (--protocol kip)"
        )


def _loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss summed over a batch."""
    if name == "cross-entropy":
        return F.cross_entropy(logits, labels, reduction="sum")
    if labels.ndim == 1:
        labels = F.one_hot(labels, logits.shape[1]) - 1 / logits.shape[1]
    return 0.5 * (logits - labels).square().sum()


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Measured on a CPU, a step in channels-last takes as long with InstanceNorm, 3/4 as long with BatchNorm; a test less."""
    return (
        LAYOUT[device.type]
        if device.type == "cpu" or isinstance(network, Accelerated)
        else torch.contiguous_format
    )


class _SGD:
    """SGD with momentum and L2, as `torch.optim.SGD` defines it; the rate may be a tensor, as a CUDA graph needs it."""

    def __init__(self, network: nn.Module, protocol: Protocol) -> None:
        self._protocol, self._parameters = protocol, list(network.parameters())
        self.velocities = [torch.zeros_like(parameter) for parameter in self._parameters]

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Move each parameter that has a gradient, which it uses up."""
        trained = [
            (p, p.grad, v)
            for p, v in zip(self._parameters, self.velocities, strict=True)
            if p.grad is not None
        ]
        parameters, gradients, velocities = map(list, zip(*trained, strict=True))
        torch._foreach_add_(gradients, parameters, alpha=self._protocol.weight_decay)
        torch._foreach_mul_(velocities, self._protocol.momentum)
        torch._foreach_add_(velocities, gradients)
        if self._protocol.nesterov:
            torch._foreach_add_(gradients, velocities, alpha=self._protocol.momentum)
        moves = gradients if self._protocol.nesterov else velocities
        torch._foreach_sub_(parameters, torch._foreach_mul(moves, rate))

    def restart(self) -> None:
        """Start the momentum again, from nothing."""
        torch._foreach_zero_(self.velocities)


def _check_finite(network: nn.Module, protocol: Protocol, epoch: int) -> None:
    """A loss that is not finite once makes weights that are not, for good: they are what we look at."""
    with torch.no_grad():
        sums = torch.stack([parameter.sum() for parameter in network.parameters()])
    if not sums.isfinite().all():
        raise Diverged(
            f"training diverged: after pass {epoch} of {protocol.epochs} the weights are not finite; "
            f"lower the learning rate (now {protocol.lr:g})"
        )
