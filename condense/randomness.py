"""Random numbers that depend on what they are for and on nothing else.

Every number is a function of (seed, purpose, counters...), never of global state, of the clock, or of what was
drawn before. So a resumed run, another chunk size or another number of ranks draws the same numbers.

Two forms: `generator` for draws made once on the host, and `uniforms`, a counter-based generator made of
integer tensor operations. The latter has the same bits on every device, needs no host synchronisation and
takes the step as a tensor, so a whole step can be captured as one CUDA graph.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (
    1 << 64
)  # as a signed 64-bit integer: torch multiplies modulo 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A seed in [0, 2**63) for one purpose: a hash of (seed, purpose, counters)."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A fresh CPU generator for (seed, purpose, counters)."""
    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): one pseudo-random int64 for each int64."""
    # `>>` on int64 copies the sign: the masks make it the unsigned shift of the definition.
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _MIX_1
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


def uniforms(seed: int, purpose: str, step: int | Tensor, lanes: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 [L, count]: row l depends on (seed, purpose, step, lanes[l]) alone.

    `lanes` is int64 [L] (class indices, say) and names the device; `step` is an integer or an int64 scalar
    tensor on that device.
    """
    stream = _mix(_mix(lanes * _GOLDEN + derive(seed, purpose)) + step)
    columns = torch.arange(1, count + 1, dtype=torch.int64, device=lanes.device)
    bits = _mix(stream[:, None] + columns * _GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
