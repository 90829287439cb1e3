"""Class orders, steps, and the part of a dataset that belongs to some classes."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from condense import UserError
from continual import class_order, class_stream, of_classes, split


def test_orders_are_those_of_numpys_global_seed():
    state = np.random.get_state()
    for seed in range(5):
        np.random.seed(seed)
        assert class_order(100, seed) == tuple(np.random.permutation(100))
    np.random.set_state(state)


def test_orders_leave_the_global_state_alone():
    before = np.random.get_state()[1].copy()
    class_order(100, 3)
    assert (np.random.get_state()[1] == before).all()


def test_steps_divide_the_classes():
    assert split((3, 1, 2, 0), 2) == ((3, 1), (2, 0))
    for steps in (0, 3, 20):
        with pytest.raises(
            UserError, match=f"{steps} steps do not divide 10 classes: give one of 1, 2, 5, 10"
        ):
            split(range(10), steps)


def test_steps_may_be_unequal(world):
    """Each of the first as large as it is said; the others divide the rest, if there are any."""
    order = world.order
    for steps, base, sizes in (
        (5, (6,), (6, 1, 1, 1, 1)),
        (4, (1, 5), (1, 5, 2, 2)),
        (2, (7, 3), (7, 3)),
    ):
        groups = split(order, steps, base)
        assert tuple(map(len, groups)) == sizes
        assert sum(groups, ()) == tuple(order)
        stream = class_stream(world.dataset, steps, order, preprocess=world.preprocess, base=base)
        brought = [set(one.classes_in_this_experience) for one in stream.train_stream]
        assert brought == list(map(set, groups))


def test_classes_are_renumbered_in_the_given_order(small):
    part = of_classes(small, [7, 2])
    assert part.classes == ("7", "2")
    for c, original in enumerate((7, 2)):
        assert torch.equal(
            part.train.pixels[part.train.of_class(c)],
            small.train.pixels[small.train.of_class(original)],
        )
        assert torch.equal(
            part.test.pixels[part.test.of_class(c)],
            small.test.pixels[small.test.of_class(original)],
        )
    assert len(part.train) == int(small.train.counts()[[7, 2]].sum())


def test_a_stream_brings_each_image_once_in_the_order_of_classes(world):
    stream = class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)
    for images, experiences in (
        (world.dataset.train, stream.train_stream),
        (world.dataset.test, stream.test_stream),
    ):
        expected, count = world.preprocess.apply(images.pixels), 0
        for step, experience in enumerate(experiences):
            assert set(experience.dataset.targets.uniques) == set(
                world.order[2 * step : 2 * step + 2]
            )
            for c in experience.dataset.targets.uniques:
                rows = torch.stack([x for x, y, _ in experience.dataset if y == c])
                assert torch.equal(rows, expected[images.of_class(c)])
            count += len(experience.dataset)
        assert count == len(images)
    own = TensorDataset(world.dataset.train.pixels, world.dataset.train.labels)
    both = class_stream({"train": own, "test": own}, 5, world.order, preprocess=world.preprocess)
    assert [len(one.dataset) for one in both.test_stream] == [
        len(one.dataset) for one in stream.train_stream
    ]
    with pytest.raises(UserError, match="own has no test images"):
        class_stream(own, 5, world.order, preprocess=world.preprocess)
    with pytest.raises(UserError, match="each of the 10 classes"):
        class_stream(world.dataset, 5, world.order[:9], preprocess=world.preprocess)
    with pytest.raises(UserError, match="3 steps do not divide"):
        class_stream(world.dataset, 3, world.order, preprocess=world.preprocess)
