"""Networks made faster where that pays: what lies between convolutions compiled into one pass, in channels-last.

On two CPU cores this is a factor of 2 to 3; a third to a half of the rest goes where bfloat16 is fast. Compiling costs
seconds for every shape, so short work is better left alone.
"""

import copy
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

T = TypeVar("T")

_WORTH_COMPILING = 2e7
"""Pixels into a network, in all, above which compiling pays: some 20 s of eager training or 60 s of forward passes."""
_BLOCK_PIXELS = {"cpu": 50 * 1024, "cuda": 1280 * 1024}
"""Pixels a device takes at once. On a CPU the widest maps of 50 float32 images of 32 px stay in cache, and are among the
blocks that `condense.device` keeps when they are freed; on a GPU it is a bound on memory."""
LAYOUT = {"cpu": torch.channels_last, "cuda": torch.channels_last}
"""Order of a map's numbers in memory; `python -m benchmarks.step --layout` measures both."""


class Compiled(Generic[T]):
    """`run`, a function of images [N, ch, H, W], compiled for each shape it meets; eager where no compiler works."""

    _warned = False

    def __init__(self, run: Callable[[Tensor], T]) -> None:
        def call(images: Tensor) -> T:
            return run(images)

        # PyTorch compiles a code object for at most eight shapes or models: each instance gets one of its own.
        call.__code__ = call.__code__.replace()
        self._plain = run
        self._compiled: Callable[[Tensor], T] | None = torch.compile(call, dynamic=False)
        # What fails shall fail here, where there is a way out, and not when gradients are first asked for.
        autograd_config.force_non_lazy_backward_lowering = True

    def __call__(self, images: Tensor) -> T:
        images = images.contiguous(memory_format=LAYOUT[images.device.type])
        while self._compiled is not None:
            try:
                return self._compiled(images)
            except torch.OutOfMemoryError:
                raise
            except (
                RuntimeError,
                OSError,
                ImportError,
            ) as error:  # the compiler's errors have no narrower kind in common
                if _unfinished_discarded(error):
                    continue
                result = self._plain(
                    images
                )  # were it no fault of the compiler, this would raise it again
                self._compiled = None
                if not Compiled._warned:
                    Compiled._warned = True
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    print(
                        f"torch.compile does not work here, going on without it, slower: {reason}",
                        file=sys.stderr,
                    )
                return result
        return self._plain(images)


def _unfinished_discarded(error: Exception) -> bool:
    """Whether `error` is about libraries in PyTorch's cache that a killed process left unfinished, which are then deleted.

    PyTorch would fail on them for ever (pytorch/pytorch issue 102539).
    """
    named = map(Path, re.findall(r"(\S+\.so): (?:file too short|invalid ELF header)", str(error)))
    unfinished = [path for path in named if path.exists()]
    for path in unfinished:
        with suppress(OSError):  # of another user
            path.unlink()
    return bool(unfinished) and not any(path.exists() for path in unfinished)


class Accelerated(nn.Module):
    """A network whose logits are computed compiled, and in bfloat16 where the device is made for it; the weights stay float32."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network.to(device).to(memory_format=LAYOUT[device.type])
        self._compiled, self._device = Compiled(network), device

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float32 [N, num_classes]."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=fast_bfloat16(self._device)):
            return self._compiled(images).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A plain copy of the network: what is compiled computes with the weights of the original."""
        return copy.deepcopy(self.network, memo)


class InBlocks(nn.Module):
    """A network that takes its images in blocks of one size, the last filled up with zeros: for batches of many sizes.

    Each size that a compiled network meets is compiled anew. Right where no image enters another's maps.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self._size = network, size

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float32 [N, num_classes]."""
        filled = F.pad(images, (0, 0, 0, 0, 0, 0, 0, -len(images) % self._size))
        return torch.cat([self.network(block) for block in filled.split(self._size)])[: len(images)]


def accelerate(network: nn.Module, pixels: float, device: torch.device) -> nn.Module:
    """`network`, made faster if `pixels`, those of all images that will pass through it, are enough for that to pay.

    The result shares its weights with `network`.
    """
    return Accelerated(network, device) if worth_compiling(pixels) else network


def worth_compiling(pixels: float) -> bool:
    """Whether so many pixels, summed over all images and passes, are worth the seconds of compiling."""
    return pixels > _WORTH_COMPILING


def block_size(images: Tensor, device: torch.device) -> int:
    """How many of `images` [N, ch, H, W] to take at once: the largest even share that suits the device, if it is no tiny one.

    Equal shares are equal shapes, and every shape is compiled anew.
    """
    most = max(1, min(len(images), _BLOCK_PIXELS[device.type] // images[0, 0].numel()))
    share = max(size for size in range(1, most + 1) if len(images) % size == 0)
    return share if 2 * share > most else most


def joins_images(network: nn.Module) -> bool:
    """Whether the images of a batch enter each other's maps, as BatchNorm's statistics make them."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
