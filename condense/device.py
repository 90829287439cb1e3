"""Which device to work on, and what it has been asked for."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

from condense.errors import UserError

_STATUS = Path("/proc/self/status")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters in <malloc.h>
_KEPT = 1 << 30
_LARGEST = 64 << 20


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; otherwise the device named, `cpu` or `cuda`, which must exist.

    On a CPU, what this process frees it keeps from now on: see `_keep_freed_memory`.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: it must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        _keep_freed_memory()
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte of the blocks below 64 MB that it frees, under the GNU C library; a no-op elsewhere.

    A step on a CPU frees the very maps that the next step needs. Returned to the system in between, they come back as hundreds
    of thousands of pages to be zeroed one fault at a time: 10 to 45 % of a step (docs/performance.md).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(_TRIM_THRESHOLD, _KEPT)
            mallopt(_MMAP_THRESHOLD, _LARGEST)


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return int(_STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def reset_peak_memory(device: torch.device) -> None:
    """Count `peak_memory` from what is in use now, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.exists():
        with contextlib.suppress(OSError):  # not every container may
            _STATUS.with_name("clear_refs").write_text("5")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices faster than float32 ones: most GPUs; CPUs with AMX or AVX-512 BF16 alone.

    Elsewhere on a CPU bfloat16 is emulated, hundreds of times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # PyTorch has no public query of a CPU's instructions beyond the widest vector.
    asked = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(query() for query in asked if query is not None)
