"""Which device to work on, and what it has been asked for."""

import contextlib
import resource
from pathlib import Path

import torch

from condense.errors import UserError

_STATUS = Path("/proc/self/status")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; otherwise the device named, `cpu` or `cuda`, which must exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: it must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu")
    return torch.device(name)


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
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(query() for query in asked if query is not None)
