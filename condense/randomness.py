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
    bits = _bits(seed, purpose, step, lanes, count)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def keys(seed: int, purpose: str, step: int | Tensor, lanes: Tensor, count: int) -> Tensor:
    """Random keys to draw without replacement by: the k columns with the smallest keys of a row.

    They are int64 [L, count], from 0 on, and all different in a row, so that every device sorts
    them alike. The arguments are those of `uniforms`. Raises `ValueError` above 2**24 columns.

    >>> row = keys(0, "real", 5, torch.tensor([7]), 1000)[0]
    >>> len(row.unique()), bool((row >= 0).all())
    (1000, True)
    """
    if count > 1 << _COLUMN_BITS:
        raise ValueError(f"{count} columns are too many for a draw: at most 2**{_COLUMN_BITS}")
    bits = _bits(seed, purpose, step, lanes, count)
    columns = torch.arange(count, dtype=torch.int64, device=lanes.device)
    random = (bits >> 1) & (0x7FFFFFFFFFFFFFFF >> _COLUMN_BITS << _COLUMN_BITS)
    return random | columns


_COLUMN_BITS = 24
"""The low bits of a key, which hold the number of its column. 39 bits are random."""


def _bits(seed: int, purpose: str, step: int | Tensor, lanes: Tensor, count: int) -> Tensor:
    """Random 64 bits as int64 [L, count]."""
    stream = _mix(_mix(lanes * _GOLDEN + derive(seed, purpose)) + step)
    columns = torch.arange(1, count + 1, dtype=torch.int64, device=lanes.device)
    return _mix(stream[:, None] + columns * _GOLDEN)
