"""Run work on a GPU as CUDA graphs, which launch hundreds of small kernels at once.

A graph needs static shapes, no value that is read on the host, and random numbers that are a
function of the step number, which is a tensor on the device. A step of condensation and a step of
training meet these conditions.
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
    """A function that is captured as a CUDA graph when first called, and replayed from then on.

    It is captured once for each combination of argument shapes. If capturing fails, a warning is
    printed once, and the function runs uncaptured.

    Parameters
    ----------
    run: a function of tensors and numbers. Its tensors are on the device. Numbers become tensors
        too, so it must not depend on their values on the host. The next call overwrites its result.
    state: every tensor that `run` changes. Capturing runs the function a few times to warm up; its
        effects on these tensors are undone.

    >>> weights = torch.zeros(2)
    >>> step = lambda rate: weights.add_(rate)
    >>> step = Graphed(step, [weights]) if has_graphs(weights.device) else step
    >>> step(0.5)
    tensor([0.5000, 0.5000])
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
            return self._run(*(_tensor(value, self._device) for value in arguments))
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
        # Kept on the CPU, because a second copy might not fit on the device.
        before = [tensor.detach().to("cpu", copy=True) for tensor in self._state]
        inputs = [_tensor(value, self._device) for value in arguments]
        try:
            replay, result = capture(lambda: self._run(*inputs), self._device)
            self._captured[shapes] = inputs, replay, result
        except torch.OutOfMemoryError:
            raise  # a smaller shape may fit
        except RuntimeError as error:
            self._failed = True
            if not Graphed._warned:
                Graphed._warned = True
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(
                    "CUDA graphs do not work here, "
                    f"so kernels are launched one by one and slower: {reason}",
                    file=sys.stderr,
                )
        finally:
            with torch.no_grad():
                for tensor, value in zip(self._state, before, strict=True):
                    tensor.copy_(value)


def has_graphs(device: torch.device) -> bool:
    """Whether devices of this kind have graphs. The first capture shows whether this one does.

    >>> has_graphs(torch.device("cpu"))
    False
    """
    return device.type == "cuda"


def capture(work: Callable[[], R], device: torch.device) -> tuple[Callable[[], None], R]:
    """Capture `work` as one CUDA graph; returns a function that replays it, and its result.

    The tensors of the result are overwritten by each replay. `work` first runs a few times to warm
    up, because compilers, libraries and the allocator do things at their first use that a capture
    does not allow. Raises `RuntimeError` if `work` cannot be captured.

    >>> counter = torch.zeros(1)
    >>> if has_graphs(counter.device):
    ...     replay, result = capture(lambda: counter.add_(1), counter.device)
    ...     replay()
    """
    graph = torch.cuda.CUDAGraph()
    # Warm-up and capture use one stream, because libraries and autograd keep state for each stream.
    # The outer block leaves the stream; a capture that fails would stay on it.
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
    """The value in its own memory on the device; numbers are stored in full precision."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    return torch.full(
        (), value, device=device, dtype=torch.float64 if isinstance(value, float) else torch.int64
    )
