"""The weights of a network along its training."""

import torch
from torch import Tensor, nn

from condense.training.descent import weights_of


class Passes:
    """The weights of a network before its training, after every pass and at the end.

    It is the `watch` of a training on so many `images`. The weights are kept as `dtype`, on the
    CPU.

    >>> network = nn.Linear(3, 2)
    >>> passes = Passes(network, images=5)
    >>> for batch in (torch.arange(4), torch.arange(1)):
    ...     passes(batch, network(torch.zeros(len(batch), 3)))
    >>> passes.done, passes.weights().shape
    (1, torch.Size([2, 8]))
    """

    def __init__(self, network: nn.Module, images: int, dtype: torch.dtype = torch.float32) -> None:
        self._network, self._images, self._dtype, self._seen = network, images, dtype, 0
        self._kept: list[Tensor] = []
        self._keep()

    def __call__(self, chosen: Tensor, logits: Tensor) -> None:
        """Take note of a step on the images `chosen`, int64 [B]."""
        self._seen += len(chosen)
        if self._seen % self._images == 0:
            self._keep()

    @property
    def done(self) -> int:
        """The number of whole passes so far."""
        return self._seen // self._images

    def weights(self) -> Tensor:
        """All of them, [passes + 1, W]."""
        if self._seen % self._images:  # the last pass was not a whole one
            self._keep()
        return torch.stack(self._kept)

    def _keep(self) -> None:
        self._kept.append(weights_of(self._network).cpu().to(self._dtype))
