"""Work on a GPU as CUDA graphs: hundreds of small kernels launched at once, with no word from the host in between.

What a graph needs, a step of condensation and one of training have: static shapes, no look at a value from the host, and
random numbers that are a function of the step's number, which lies in a tensor on the device.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
Argument = Tensor | int | float

_WARM_UPS = 3


class Graphed(Generic[R]):
    """`run`, captured at the first call with arguments of each shape and replayed from then on; run plainly where that fails.

    Parameters
    ----------
    run: a function of tensors on the device, whose values it may need, and of numbers, whose values it may not: they become
        tensors. What it returns is overwritten by the next call.
    state: every tensor that `run` changes: the warm-up that capturing needs leaves no trace in them.
    """

    _warned = False

    def __init__(self, run: Callable[..., R], state: Sequence[Tensor]) -> None:
        self._run, self._state, self._device = run, list(state), state[0].device
        self._captured: dict[
            tuple[torch.Size | None, ...], tuple[list[Tensor], Callable[[], None], R]
        ] = {}
        self._failed = False

    def __call__(self, *arguments: Argument) -> R:
        """`run(*arguments)`."""
        shapes = tuple(value.shape if isinstance(value, Tensor) else None for value in arguments)
        if shapes not in self._captured and not self._failed:
            self._capture(shapes, arguments)
        if shapes not in self._captured:
            return self._run(*arguments)
        inputs, replay, result = self._captured[shapes]
        for place, value in zip(inputs, arguments, strict=True):
            place.copy_(value, non_blocking=True) if isinstance(value, Tensor) else place.fill_(
                value
            )
        replay()
        return result

    def _capture(
        self, shapes: tuple[torch.Size | None, ...], arguments: Sequence[Argument]
    ) -> None:
        before = [
            tensor.detach().to("cpu", copy=True) for tensor in self._state
        ]  # a second copy on the device might not fit
        inputs = [_tensor(value, self._device) for value in arguments]
        try:
            replay, result = capture(lambda: self._run(*inputs), self._device)
            self._captured[shapes] = inputs, replay, result
        except RuntimeError as error:
            self._failed = True
            if not Graphed._warned:
                Graphed._warned = True
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(
                    f"no CUDA graph here, launching each kernel by itself, slower: {reason}",
                    file=sys.stderr,
                )
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)


def has_graphs(device: torch.device) -> bool:
    """Whether such a device can have graphs at all; whether this one does, the first capture tells."""
    return device.type == "cuda"


def capture(work: Callable[[], R], device: torch.device) -> tuple[Callable[[], None], R]:
    """`work` as one CUDA graph, after it has been done a few times to warm up: what replays it, and where its result will lie.

    Compilers, libraries and the allocator do at the first use what a capture does not allow.
    """
    graph = torch.cuda.CUDAGraph()
    # One stream for both: libraries and autograd keep something for each. Leaving it is up to the outer block: a capture
    # that fails stays on it.
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                work()
            with torch.cuda.graph(graph, stream=aside):
                result = work()
        torch.cuda.current_stream().wait_stream(aside)
    return graph.replay, result


def _tensor(value: Argument, device: torch.device) -> Tensor:
    """The value in memory of its own on the device, numbers in full precision."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    return torch.full(
        (), value, device=device, dtype=torch.float64 if isinstance(value, float) else torch.int64
    )
