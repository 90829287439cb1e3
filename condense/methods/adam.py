"""Adam whose state can be put into a checkpoint, and read from it, before the first step."""

from collections.abc import Iterable

import torch
from torch import Tensor


def adam(parameters: Iterable[Tensor], lr: float, beta1: float = 0.9) -> torch.optim.Adam:
    """PyTorch's Adam (Kingma and Ba, 2015) over `parameters`, with the state of no steps already there."""
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(beta1, 0.999))
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def state_of(name: str, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """The tensors of its state, by names that start with `name`. Changing them in place changes the optimiser."""
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"{name}.{number}.{key}": value
        for number, parameter in enumerate(parameters)
        for key, value in optimizer.state[parameter].items()
    }


def forget(optimizer: torch.optim.Adam) -> None:
    """Put the state back to that of no steps."""
    for tensor in state_of("", optimizer).values():
        tensor.zero_()
