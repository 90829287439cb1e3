"""A whole step as one CUDA graph: hundreds of small kernels launched at once, with no word from the host in between.

What a graph needs, the engine's step has: static shapes, no look at a value from the host, and random numbers that are
a function of the step, which lies in a tensor on the device.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor], dict[str, Tensor]]
"""From the number of the step (an int64 scalar tensor) to the parts of the loss; moves the pixels on the way."""

_WARM_UPS = 3


class Graphed:
    """`step`, captured at the first call and replayed from then on; run plainly where capturing fails, said once.

    `state` are the tensors that a step changes: the warm-up that capturing needs must leave no trace in them.
    """

    def __init__(self, step: Step, state: list[Tensor]) -> None:
        self._plain, self._state = step, state
        self._number = torch.zeros((), dtype=torch.int64, device=state[0].device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._totals: dict[str, Tensor] = {}
        self._failed = False

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Carry out a step. The result is overwritten by the next."""
        self._number.fill_(step)
        if self._graph is None and not self._failed:
            self._capture()
        if self._graph is None:
            return self._plain(self._number)
        self._graph.replay()
        return self._totals

    def _capture(self) -> None:
        before = [tensor.cpu() for tensor in self._state]  # on the host: a second copy on the device might not fit
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    self._plain(self._number)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._totals = self._plain(self._number)
            self._graph = graph
        except RuntimeError as error:
            self._failed = True
            print(f"no CUDA graph here, launching each kernel by itself, slower: {str(error).splitlines()[0]}", file=sys.stderr)
        for tensor, value in zip(self._state, before, strict=True):
            tensor.copy_(value)
