"""`uniforms` against plain integers and against the statistics it promises.

`derive` and `generator`.
"""

import math

import pytest
import torch
from scipy import stats

from condense.randomness import derive, generator, keys, uniforms

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(bits: int) -> int:
    """The finaliser, in unsigned integers of any size."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def reference(seed: int, purpose: str, step: int, lane: int, column: int) -> float:
    stream = splitmix64((splitmix64((lane * GOLDEN + derive(seed, purpose)) & MASK) + step) & MASK)
    return (splitmix64((stream + (column + 1) * GOLDEN) & MASK) >> 40) / (1 << 24)


def test_splitmix64_reference_has_the_published_first_output() -> None:
    # The first number of SplitMix64 seeded with 0: the state moves on by the golden ratio, then is
    # mixed.
    assert splitmix64(GOLDEN) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 7), (123456789, 10**9), (5, 2**62)])
def test_uniforms_are_bitwise_those_of_plain_integers(seed: int, step: int) -> None:
    lanes = [0, 1, 2, 99, 10**12]
    drawn = uniforms(seed, "test", step, torch.tensor(lanes), 4)
    expected = [
        [reference(seed, "test", step, lane, column) for column in range(4)] for lane in lanes
    ]
    assert drawn.dtype == torch.float32
    assert drawn.tolist() == expected


def test_step_as_a_tensor_and_lanes_in_any_order() -> None:
    lanes = torch.arange(50)
    drawn = uniforms(3, "test", 11, lanes, 5)
    assert torch.equal(drawn, uniforms(3, "test", torch.tensor(11), lanes, 5))
    some = torch.tensor([40, 3, 17])
    assert torch.equal(drawn[some], uniforms(3, "test", 11, some, 5))
    assert torch.equal(drawn[:, :2], uniforms(3, "test", 11, lanes, 2))


def test_keys_never_tie_and_sort_like_the_uniform_numbers_that_do_not() -> None:
    lanes, columns, ties = torch.arange(40), 5000, 0
    drawn, uniform = keys(3, "test", 11, lanes, columns), uniforms(3, "test", 11, lanes, columns)
    for row, numbers in zip(drawn, uniform, strict=True):
        assert len(row.unique()) == columns
        ties += columns - len(numbers.unique())
        assert numbers[row.argsort()].diff().min() >= 0
    assert ties > 0  # of the float32 numbers: else this test would show nothing
    assert torch.equal(keys(3, "test", torch.tensor(11), lanes[[7]], 9)[0], keys(
        3, "test", 11, lanes, 9)[7])  # fmt: skip
    with pytest.raises(ValueError, match="too many"):
        keys(0, "test", 0, lanes[:1], 2**24 + 1)


def test_uniforms_are_uniform() -> None:
    drawn = torch.stack(
        [uniforms(0, "test", step, torch.arange(100), 4) for step in range(250)]
    ).flatten()
    assert 0 <= drawn.min() < 1e-3
    assert 1 - 1e-3 < drawn.max() < 1
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3
    bits = ((drawn * (1 << 24)).long()[:, None] >> torch.arange(24)) & 1
    ones = bits.sum(0).double().numpy()
    chi2 = ((ones - len(drawn) / 2) ** 2 / (len(drawn) / 4)).sum()
    assert stats.chi2.sf(chi2, df=24) > 1e-3
    # Neighbouring bits, and the highest bits of consecutive draws, in all their combinations.
    words = bits[:, -4:] @ torch.tensor([1, 2, 4, 8])
    assert stats.chisquare(words.bincount(minlength=16).numpy()).pvalue > 1e-3
    pairs = words[:-1:2] * 16 + words[1::2]
    assert stats.chisquare(pairs.bincount(minlength=256).numpy()).pvalue > 1e-3


def test_seeds_purposes_steps_lanes_and_columns_are_unrelated() -> None:
    def along(what: str, offset: int) -> torch.Tensor:
        """20,000 numbers, with one of their coordinates moved by `offset`."""
        if what == "step":
            return torch.stack(
                [uniforms(0, "a", step + offset, torch.arange(20), 1) for step in range(1000)]
            ).flatten()
        lanes = torch.arange(20_000) + (offset if what == "lane" else 0)
        seed, purpose = (
            (offset if what == "seed" else 0),
            ("b" if what == "purpose" and offset else "a"),
        )
        return uniforms(seed, purpose, 0, lanes, 2)[:, offset if what == "column" else 0]

    for what in ("seed", "purpose", "step", "lane", "column"):
        first, second = along(what, 0), along(what, 1)
        correlation = torch.corrcoef(torch.stack([first, second]).double())[0, 1].item()
        assert abs(correlation) < 4.5 / math.sqrt(20_000), what
        assert (first == second).sum() < 10, what


def test_derive_is_stable_and_tells_its_arguments_apart() -> None:
    # A frozen value: saved runs resume only if it never changes.
    assert derive(0, "test", 1, 2) == derive(0, "test", 1, 2) == 6503135684805367219
    seeds = {
        derive(*arguments)
        for arguments in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 1, 0)]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generator_repeats_itself_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    draws = [
        torch.rand(100, generator=generator(*arguments))
        for arguments in [(0, "a", 1), (0, "a", 1), (0, "a", 2)]
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(before, torch.get_rng_state())
