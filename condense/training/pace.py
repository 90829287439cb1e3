"""How long training takes here: a few steps are timed."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from condense.training.protocol import Protocol
from condense.training.train import accuracy, train

_STEPS = 9
_TESTED = 500
"""Test images that are timed."""
_WARM_UP = 3
"""Steps that are not counted: they compile."""


def seconds_a_step(
    network: nn.Module, images: Tensor, labels: Tensor, protocol: Protocol, **further: Any
) -> float:
    """The seconds that a step takes when `train` is called with these arguments.

    The network is trained for nine steps, so its weights change.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(20, 1, 2, 2), torch.zeros(20, dtype=torch.int64)
    >>> 0 < seconds_a_step(network, images, labels, Protocol(augment="none")) < 1
    True
    """
    times: list[float] = []

    def look(chosen: Tensor, logits: Tensor) -> None:
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        times.append(time.perf_counter())

    brief = replace(protocol, epochs=_STEPS, steps=_STEPS)
    train(network, images, labels, brief, seed=0, watch=look, **further)
    # Steps differ in what was drawn for them, so several are averaged.
    return (times[-1] - times[_WARM_UP - 1]) / (len(times) - _WARM_UP)


def seconds_a_network(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: Protocol,
    test: tuple[Tensor, Tensor],
    **further: Any,
) -> float:
    """The seconds that a whole training and a test take; the other arguments are those of `train`.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(20, 1, 2, 2), torch.zeros(20, dtype=torch.int64)
    >>> brief = Protocol(epochs=3, augment="none")
    >>> 0 < seconds_a_network(network, images, labels, brief, (images, labels)) < 1
    True
    """
    step = seconds_a_step(network, images, labels, protocol, **further)
    some, truth = (part[:_TESTED] for part in test)
    accuracy(network, some, truth)  # the first time it may be compiled
    began = time.perf_counter()
    accuracy(network, some, truth)
    tested = (time.perf_counter() - began) * len(test[0]) / len(some)
    return step * protocol.length(len(images)) + tested
