"""Which device to compute on, how much memory it used, and whether it is fast in bfloat16."""

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
    """The device called `name`: `cpu`, `cuda`, or `auto`, which is CUDA where available.

    Raises `UserError` for another name, and for `cuda` on a machine without it. If the device is
    the CPU, this process keeps its freed memory from now on (see `_keep_freed_memory`).

    >>> pick_device("cpu")
    device(type='cpu')
    >>> pick_device("tpu")
    Traceback (most recent call last):
    condense.errors.UserError: --device tpu: it must be auto, cpu or cuda
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
    """Let this process keep freed memory: blocks below 64 MB, up to one gigabyte in total.

    This applies to the GNU C library; elsewhere the function does nothing. A training step on a
    CPU frees exactly the memory that the next step needs. If it were returned to the system in
    between, the system would hand it back as hundreds of thousands of pages, and zero each one at
    first use. That costs 10 to 45 % of a step (docs/performance.md).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(_TRIM_THRESHOLD, _KEPT)
            mallopt(_MMAP_THRESHOLD, _LARGEST)


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes.

    On a GPU this is the memory that PyTorch allocated there; on a CPU, the resident memory of this
    process.

    >>> peak_memory(torch.device("cpu")) > 1_000_000
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return int(_STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def reset_peak_memory(device: torch.device) -> None:
    """Restart `peak_memory` from the memory in use now, where the system allows it (CUDA, Linux).

    >>> reset_peak_memory(torch.device("cpu"))
    >>> peak_memory(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.exists():
        with contextlib.suppress(OSError):  # some containers forbid it
            _STATUS.with_name("clear_refs").write_text("5")


def precision(device: torch.device) -> str:
    """In words, the types that networks are computed in on `device`.

    Whether a GPU rounds float32 numbers to TF32 is a setting of PyTorch, which by default does so
    in convolutions alone. It belongs to the whole process, so it is told here and not changed.

    >>> precision(torch.device("cpu")).endswith("float32")
    True
    """
    half = "bfloat16 if compiled, else " if fast_bfloat16(device) else ""
    if device.type != "cuda":
        return f"{half}float32"
    backends = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    rounded = [what for what, allowed in backends.items() if allowed]
    return f"{half}float32" + (f", {' and '.join(rounded)} in TF32" if rounded else "")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies matrices faster in bfloat16 than in float32.

    Most GPUs do. Of the CPUs, only those with AMX or AVX-512 BF16 do: the others emulate bfloat16,
    which is hundreds of times slower.

    >>> fast_bfloat16(torch.device("cpu")) in (True, False)
    True
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # PyTorch has no public function that tells whether a CPU has these instructions.
    queries = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(query() for query in queries if query is not None)
