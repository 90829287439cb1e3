"""Networks compiled with `torch.compile`, where that saves time, in the channels-last layout.

Compilation fuses the operations between two convolutions into one pass over memory. On two CPU
cores this makes a network two to three times as fast. Where bfloat16 is fast, it saves a third to a
half of the remaining time. Compiling takes seconds for every input shape, so short work is better
left uncompiled.
"""

import copy
import importlib
import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch import config as autograd_config

from condense.device import fast_bfloat16
from condense.randomness import derive

T = TypeVar("T")

_WORTH_COMPILING = 2e7
"""The number of input pixels, in total, above which compiling pays.

It stands for about 20 s of uncompiled training, or 60 s of forward passes."""
_BLOCK_PIXELS = {"cpu": 50 * 1024, "cuda": 1280 * 1024}
"""The number of pixels that a device takes at once.

On a CPU this is 50 images of 32 px. Their widest float32 maps stay in cache, and are among the
blocks of memory that `condense.device` keeps when they are freed. On a GPU it bounds the memory."""
LAYOUT = {"cpu": torch.channels_last, "cuda": torch.channels_last}
"""The memory layout of a map, by device. `python -m benchmarks.step --layout` compares layouts."""


class Compiled(Generic[T]):
    """A function of tensors, compiled for each combination of shapes it is called with.

    Images [N, ch, H, W] are brought into the `LAYOUT` of their device. If the compiler does not
    work here, the function runs uncompiled and one warning is printed. `draws` tells that random
    numbers are drawn in it: positions are then multiplied modulo 2**64, which the compiler for GPUs
    must not turn into 32-bit arithmetic on the position.

    >>> mean = Compiled(lambda images: images.mean())
    >>> with torch.compiler.set_stance("force_eager"):  # no need to compile for an example
    ...     mean(torch.ones(2, 3, 8, 8))
    tensor(1.)
    """

    _warned = False

    def __init__(self, run: Callable[..., T], *, draws: bool = False) -> None:
        def call(*arguments: Tensor) -> T:
            return run(*arguments)

        # PyTorch compiles a code object for at most eight shapes or models, so each instance gets
        # a code object of its own.
        call.__code__ = call.__code__.replace()
        self._plain = run
        _import_builder()
        torch.compiler.assume_constant_result(derive)  # hashing cannot be compiled
        options: Any = {"constant_and_index_propagation": False} if draws else None
        self._compiled: Callable[..., T] | None = torch.compile(
            call, dynamic=False, options=options
        )
        # Compile the backward pass early: a failure can be handled here, but not later, when
        # gradients are first computed.
        autograd_config.force_non_lazy_backward_lowering = True

    def __call__(self, *arguments: Tensor) -> T:
        arguments, failed = tuple(map(_laid_out, arguments)), False
        while self._compiled is not None:
            try:
                return self._compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            # The compiler's errors have no narrower type in common.
            except (RuntimeError, OSError, ImportError) as error:
                # Ctrl-C reaches the compiler, too, which works the second time.
                if _unfinished_discarded(error) or not failed:
                    failed = True
                    continue
                # If the compiler is not to blame, this raises the error again.
                result = self._plain(*arguments)
                self._compiled = None
                if not Compiled._warned:
                    Compiled._warned = True
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    print(
                        "torch.compile does not work here, "
                        f"so networks run uncompiled and slower: {reason}",
                        file=sys.stderr,
                    )
                return result
        return self._plain(*arguments)


def _laid_out(tensor: Tensor) -> Tensor:
    """Images in the memory layout of their device; any other tensor as it is."""
    if tensor.ndim != 4:
        return tensor
    return tensor.contiguous(memory_format=LAYOUT[tensor.device.type])


def _import_builder() -> None:
    """Import the module that PyTorch builds its compiled code with, without a warning of it.

    It warns of every machine that has the compiler of CUDA and no GPU, which is no fault.
    """
    name = "torch.utils.cpp_extension"

    def is_another(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No CUDA runtime is found")

    logger = logging.getLogger(name)
    logger.addFilter(is_another)
    try:
        with suppress(ImportError):  # the compiler fails on it, too, and says so
            importlib.import_module(name)
    finally:
        logger.removeFilter(is_another)


def _unfinished_discarded(error: Exception) -> bool:
    """Whether `error` comes from unfinished libraries in PyTorch's cache, which are deleted here.

    A process that is killed while compiling leaves them behind, and PyTorch would fail on them
    forever (pytorch/pytorch issue 102539).
    """
    named = map(Path, re.findall(r"(\S+\.so): (?:file too short|invalid ELF header)", str(error)))
    unfinished = [path for path in named if path.exists()]
    for path in unfinished:
        with suppress(OSError):  # it belongs to another user
            path.unlink()
    return bool(unfinished) and not any(path.exists() for path in unfinished)


class InBfloat16(nn.Module):
    """A network whose logits are computed in bfloat16 where that is fast; its weights stay float32.

    >>> network = InBfloat16(nn.Linear(3, 8), torch.device("cpu"))
    >>> network(torch.ones(2, 3)).dtype, type(copy.deepcopy(network)).__name__
    (torch.float32, 'Linear')
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self._device = network.to(device), device

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float32 [N, num_classes]."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=fast_bfloat16(self._device)):
            return self._answer(images).float()

    def _answer(self, images: Tensor) -> Tensor:
        return self.network(images)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A copy of the plain network, since compiled code uses the weights of the original."""
        return copy.deepcopy(self.network, memo)


class Accelerated(InBfloat16):
    """A network whose logits are computed by compiled code, in bfloat16 where that is fast.

    >>> network = Accelerated(nn.Conv2d(3, 8, 3), torch.device("cpu"))
    >>> type(copy.deepcopy(network)).__name__
    'Conv2d'
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__(network.to(memory_format=LAYOUT[device.type]), device)
        self._compiled = Compiled(network)

    def _answer(self, images: Tensor) -> Tensor:
        return self._compiled(images)


class InBlocks(nn.Module):
    """A network that takes its images in blocks of one size, the last one padded with zeros.

    It is meant for batches of many sizes, since a compiled network is compiled again for each size.
    The result is only right for networks in which the images of a batch do not affect each other.

    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", (1, 8, 8), 10)
    >>> images = torch.rand(5, 1, 8, 8)
    >>> torch.allclose(InBlocks(network, size=4)(images), network(images), atol=1e-5)
    True
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self._size = network, size

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float32 [N, num_classes]."""
        filled = F.pad(images, (0, 0, 0, 0, 0, 0, 0, -len(images) % self._size))
        return torch.cat([self.network(block) for block in filled.split(self._size)])[: len(images)]


def accelerate(network: nn.Module, pixels: float, device: torch.device) -> nn.Module:
    """Make `network` faster if enough images will pass through it for that to pay.

    `pixels` is the total number of pixels of these images. The result shares its weights with
    `network`; for little work it is `network` itself.

    >>> network = nn.Conv2d(3, 8, 3)
    >>> accelerate(network, pixels=1000, device=torch.device("cpu")) is network
    True
    >>> type(accelerate(network, pixels=1e9, device=torch.device("cpu"))).__name__
    'Accelerated'
    """
    return Accelerated(network, device) if worth_compiling(pixels) else network


def worth_compiling(pixels: float) -> bool:
    """Whether compiling pays for this many pixels, summed over all images and passes.

    >>> worth_compiling(50 * 32 * 32), worth_compiling(50_000 * 32 * 32)
    (False, True)
    """
    return pixels > _WORTH_COMPILING


def block_size(images: Tensor, device: torch.device) -> int:
    """How many of `images` [N, ch, H, W] to process at once on `device`.

    This is the largest equal share of the images that suits the device. If it is less than half of
    what the device takes, it is what the device takes. Equal shares have equal shapes, and a
    network is compiled again for every shape.

    >>> block_size(torch.zeros(100, 3, 32, 32), torch.device("cpu"))
    50
    >>> block_size(torch.zeros(64, 3, 32, 32), torch.device("cpu"))
    32
    """
    most = max(1, min(len(images), _BLOCK_PIXELS[device.type] // images[0, 0].numel()))
    share = max(size for size in range(1, most + 1) if len(images) % size == 0)
    return share if 2 * share > most else most


def joins_images(network: nn.Module) -> bool:
    """Whether the images of a batch affect each other, as through the statistics of BatchNorm.

    >>> joins_images(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    True
    """
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
