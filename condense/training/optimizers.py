"""Optimisers whose learning rate may be a tensor, as a CUDA graph needs it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SGD:
    """SGD with momentum and an L2 penalty, as `torch.optim.SGD` defines it.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> optimizer = SGD([weight], momentum=0.5, weight_decay=0.0, nesterov=False)
    >>> for _ in range(2):
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step(rate=0.1)
    >>> round(weight.item(), 6)  # 1 - 0.1 * 1 - 0.1 * 1.5
    0.75
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        momentum: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        self._momentum, self._weight_decay, self._nesterov = momentum, weight_decay, nesterov
        self._parameters = parameters
        self.state = [torch.zeros_like(parameter) for parameter in parameters]
        """The velocity of each parameter."""

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Move each parameter that has a gradient. The gradients are overwritten."""
        trained = [
            (p, p.grad, v)
            for p, v in zip(self._parameters, self.state, strict=True)
            if p.grad is not None
        ]
        parameters, gradients, velocities = map(list, zip(*trained, strict=True))
        torch._foreach_add_(gradients, parameters, alpha=self._weight_decay)
        torch._foreach_mul_(velocities, self._momentum)
        torch._foreach_add_(velocities, gradients)
        if self._nesterov:
            torch._foreach_add_(gradients, velocities, alpha=self._momentum)
        moves = gradients if self._nesterov else velocities
        torch._foreach_sub_(parameters, torch._foreach_mul(moves, rate))

    def restart(self) -> None:
        """Reset the momentum to zero."""
        torch._foreach_zero_(self.state)


class AdamW:
    """PyTorch's AdamW (Loshchilov and Hutter, 2019), with its initial state in place.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> optimizer = AdamW([weight], momentum=0.9, weight_decay=0.0)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step(rate=0.1)
    >>> round(weight.item(), 4)
    0.9
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], momentum: float, weight_decay: float
    ) -> None:
        device = parameters[0].device
        self._rate = torch.zeros((), device=device)
        self._adam = torch.optim.AdamW(
            parameters,
            lr=self._rate,
            betas=(momentum, 0.999),
            weight_decay=weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.state: list[Tensor] = []
        """The number of steps and the two means of each parameter."""
        for parameter in parameters:
            own = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            self._adam.state[parameter] = own
            self.state += own.values()

    def step(self, rate: float | Tensor) -> None:
        """Move each parameter that has a gradient."""
        self._rate.copy_(torch.as_tensor(rate))
        self._adam.step()

    def restart(self) -> None:
        """Forget all gradients."""
        torch._foreach_zero_(self.state)
