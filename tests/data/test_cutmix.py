"""CutMix against its definition: one rectangle a batch, and labels by the share of pixels."""

import pytest
import torch
from scipy import stats

from condense.data.cutmix import cutmix
from condense.randomness import uniforms


def test_the_rectangle_and_the_share_are_the_definitions() -> None:
    size, count = (10, 14), 6
    images = torch.arange(count, dtype=torch.float64)[:, None, None, None].expand(-1, 2, *size)
    for step in range(200):
        mixed, others, own = cutmix(images, 1.0, 5, step)
        _, area, *centre = uniforms(5, "cutmix", step, torch.zeros(1, dtype=torch.int64), 4)[
            0
        ].tolist()
        spans = []
        for length, u in zip(size, centre, strict=True):
            half, middle = int(length * area**0.5) // 2, int(u * length)
            spans.append(range(max(0, middle - half), min(length, middle + half)))
        cut = len(spans[0]) * len(spans[1])
        assert own.item() == pytest.approx(1 - cut / (size[0] * size[1]), abs=1e-6)
        assert sorted(others.tolist()) == list(range(count))
        for n in range(count):
            wanted = images[n].clone()
            for row in spans[0]:
                for column in spans[1]:
                    wanted[:, row, column] = images[others[n], :, row, column]
            assert torch.equal(mixed[n], wanted)
        by_tensor = cutmix(images, 1.0, 5, torch.tensor(step))
        assert all(map(torch.equal, by_tensor, (mixed, others, own)))


def test_it_happens_with_its_probability_and_otherwise_changes_nothing() -> None:
    images, times = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 0
    for step in range(1000):
        mixed, _, own = cutmix(images, 0.25, 0, step)
        times += bool(uniforms(0, "cutmix", step, torch.zeros(1, dtype=torch.int64), 1) < 0.25)
        assert own < 1 or torch.equal(mixed, images)
    assert stats.binomtest(times, 1000, 0.25).pvalue > 1e-3


def test_nothing_is_read_back_to_the_host() -> None:
    images, step = torch.empty(12, 3, 8, 8, device="meta"), torch.tensor(0, device="meta")
    assert cutmix(images, 0.5, 0, step)[0].shape == images.shape
