"""Adam with a state that exists before the first step, so that checkpoints can restore it."""

from collections.abc import Iterable

import torch
from torch import Tensor


def adam(parameters: Iterable[Tensor], lr: float, beta1: float = 0.9) -> torch.optim.Adam:
    """PyTorch's Adam (Kingma and Ba, 2015) over `parameters`, with its initial state in place.

    >>> images = torch.zeros(3, requires_grad=True)
    >>> optimizer = adam([images], lr=0.1)
    >>> images.sum().backward()
    >>> optimizer.step()
    >>> images
    tensor([-0.1000, -0.1000, -0.1000], requires_grad=True)
    """
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(beta1, 0.999))
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def state_of(name: str, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors; each name starts with `name`.

    Changing these tensors in place changes the optimiser.

    >>> list(state_of("images", adam([torch.zeros(3)], lr=0.1)))
    ['images.0.step', 'images.0.exp_avg', 'images.0.exp_avg_sq']
    """
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"{name}.{number}.{key}": value
        for number, parameter in enumerate(parameters)
        for key, value in optimizer.state[parameter].items()
    }


def forget(optimizer: torch.optim.Adam) -> None:
    """Reset the state to that before the first step.

    >>> images = torch.zeros(3, requires_grad=True)
    >>> optimizer = adam([images], lr=0.1)
    >>> images.sum().backward()
    >>> optimizer.step()
    >>> forget(optimizer)
    >>> state_of("images", optimizer)["images.0.step"]
    tensor(0.)
    """
    for tensor in state_of("", optimizer).values():
        tensor.zero_()
