"""A standard run, and how fast this machine is at what it consists of.

It is the default recipe with 10 images per class of CIFAR-10. Its work is counted in images that
pass through a ConvNet forward and backward; a forward pass is a third of that.
"""

import time

import torch

from condense.device import pick_device
from condense.methods.recipes import recipe_for
from condense.networks.build import build
from condense.training.protocol import PROTOCOLS, Protocol
from condense.training.train import train

_SHAPE, _CLASSES, _IPC, _TEST = (3, 32, 32), 10, 10, 10_000
_NETWORKS = 20
_BATCH, _STEPS = 50, 4


def work() -> tuple[int, int]:
    """The images of a condensation and of its evaluation, whose protocol is `dm`.

    >>> condensing, evaluating = work()
    >>> evaluating > condensing > 1_000_000
    True
    """
    recipe = recipe_for("best", "cifar10", _SHAPE, _IPC)
    synthetic = _CLASSES * _IPC * recipe.formation**2
    pool = recipe.pool * recipe.pool_steps * 64
    steps = recipe.steps * (_CLASSES * recipe.real_batch // 3 + synthetic)
    evaluating = _NETWORKS * (PROTOCOLS["dm"].epochs * synthetic + _TEST // 3)
    return pool + steps, evaluating


def images_a_second(seconds: float = 10.0, network: str = "convnet") -> float:
    """How many images of 32 px a network is trained on in a second, uncompiled.

    >>> images_a_second(0.1, "convnet-d1-w8") > 1
    True
    """
    place = pick_device("auto")
    model = build(network, _SHAPE, _CLASSES).to(place)
    images = torch.randn(_BATCH, *_SHAPE, device=place)
    labels = torch.arange(_BATCH, device=place) % _CLASSES
    protocol = Protocol(batch=_BATCH, epochs=_STEPS)
    train(model, images, labels, protocol, seed=0)  # warms up
    began, rounds = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        train(model, images, labels, protocol, seed=rounds)
        rounds += 1
    return rounds * _STEPS * _BATCH / taken
