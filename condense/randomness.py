"""Random numbers that depend only on the seed and on what they are used for.

Every number is a function of (seed, purpose, counters...). It does not depend on global state, on
the clock, or on what was drawn before. A resumed run therefore draws the same numbers as an
uninterrupted one, and so does a run with another chunk size or another number of ranks.

There are two kinds of draw. `generator` serves draws that are made once, on the CPU. `uniforms` is
a counter-based generator built from integer tensor operations. It gives the same bits on every
device, never waits for the device, and accepts the step number as a tensor, so that a whole
training step can be captured as one CUDA graph.
"""

import hashlib

import torch
from torch import Tensor

# The constants are signed 64-bit integers; torch multiplies them modulo 2**64.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A seed in [0, 2**63) for one purpose: a hash of (seed, purpose, counters).

    >>> derive(0, "start", 3) == derive(0, "start", 3)
    True
    >>> derive(0, "start", 3) == derive(0, "start", 4)
    False
    """
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A new CPU generator seeded with `derive(seed, purpose, *counters)`.

    >>> first = torch.rand(2, generator=generator(0, "noise", 1))
    >>> again = torch.rand(2, generator=generator(0, "noise", 1))
    >>> torch.equal(first, again)
    True
    """
    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): int64 to pseudo-random int64."""
    # `>>` on int64 copies the sign bit. The masks turn it into the unsigned shift that is meant.
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _MIX_1
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


def uniforms(seed: int, purpose: str, step: int | Tensor, lanes: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 [L, count].

    Row l depends only on (seed, purpose, step, lanes[l]). `lanes` is int64 [L], for example class
    indices; the numbers are drawn on its device. `step` is an integer or an int64 scalar tensor on
    that device.

    >>> all_classes = uniforms(0, "augment", 5, torch.arange(10), 3)
    >>> all_classes.shape
    torch.Size([10, 3])
    >>> torch.equal(uniforms(0, "augment", 5, torch.tensor([7]), 3)[0], all_classes[7])
    True
    """
    stream = _mix(_mix(lanes * _GOLDEN + derive(seed, purpose)) + step)
    columns = torch.arange(1, count + 1, dtype=torch.int64, device=lanes.device)
    bits = _mix(stream[:, None] + columns * _GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
