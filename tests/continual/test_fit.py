"""Whether a memory and a stream belong together, in the streams that Avalanche's users build."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream, nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from torch.utils.data import TensorDataset

from condense import UserError
from condense.data.images import Dataset
from condense.data.preprocess import Standardize, make_preprocess
from condense.methods.selection import select
from continual import CondensedBuffer, class_stream
from continual.stream import Prepare

AGENT = SimpleNamespace()
pytestmark = pytest.mark.filterwarnings("ignore:stream generator will be converted to a list")


def renumbered(world, **options):
    """A stream that numbers the classes in the order in which they come."""
    pixels, labels = world.dataset.train.pixels, world.dataset.train.labels
    return nc_benchmark(
        TensorDataset(pixels, labels),
        TensorDataset(world.dataset.test.pixels, world.dataset.test.labels),
        **{
            "n_experiences": 5,
            "task_labels": False,
            "fixed_class_order": list(world.order),
            "shuffle": False,
            "class_ids_from_zero_from_first_exp": True,
            "train_transform": Prepare(world.preprocess),
            "eval_transform": Prepare(world.preprocess),
            **options,
        },
    )


def validated(world):
    return benchmark_with_validation_stream(renumbered(world), 0.2, shuffle=True, seed=0)


def feed(buffer, stream):
    for experience in stream:
        buffer.post_adapt(AGENT, experience)
    return buffer


def assert_images_of_their_class(world, buffer):
    """Whether the images under a label are those of the class that the stream gives it."""
    for label, group in buffer.buffer_groups.items():
        original = world.memory.per_class(world.order[label])
        expected = {row.numpy().tobytes() for row in world.preprocess.quantise(original)}
        assert {row.numpy().tobytes() for row in group.rows} == expected


def test_images_of_a_stream_may_be_floats_as_those_of_a_dataset(world):
    prepare, pixels = Prepare(world.preprocess), world.dataset.train.pixels[0]
    assert torch.equal(prepare(pixels / 255), prepare(pixels))
    with pytest.raises(UserError, match=r"not pixels in \[0, 1\]: divide them by 255"):
        prepare(pixels.float())


def test_a_validation_stream_that_has_lost_the_mapping_is_refused_or_told(world):
    with pytest.raises(UserError, match=r"does not say which class .* `class_mapping`, or the"):
        feed(CondensedBuffer(world.memory), validated(world).train_stream)
    mapping = renumbered(world).class_mapping
    for told in ({"class_mapping": mapping}, {"order": world.order}):
        buffer = feed(CondensedBuffer(world.memory, **told), validated(world).train_stream)
        assert buffer.seen_classes == set(range(10))
        assert_images_of_their_class(world, buffer)


def test_labels_that_are_the_classes_need_no_mapping(world):
    kept = renumbered(world, class_ids_from_zero_from_first_exp=False)
    stream = benchmark_with_validation_stream(kept, 0.2, shuffle=True, seed=0)
    buffer = feed(CondensedBuffer(world.memory), stream.train_stream)
    assert buffer.seen_classes == set(range(10))


@pytest.mark.parametrize("seen", [True, False], ids=["boundaries", "no boundaries"])
def test_an_online_stream_is_followed_to_the_experience_that_it_splits(world, seen):
    stream = split_online_stream(
        renumbered(world).train_stream, 20, access_task_boundaries=seen, seed=0
    )
    assert_images_of_their_class(world, feed(CondensedBuffer(world.memory), stream))


def test_a_wrong_mapping_is_refused(world):
    memory = select("random", world.dataset, 10, preprocess=world.preprocess, seed=0)
    with pytest.raises(UserError, match="do not look like the stream's classes"):
        feed(CondensedBuffer(memory, order=range(10)), validated(world).train_stream)
    with pytest.raises(UserError, match="give one of them"):
        CondensedBuffer(world.memory, order=range(10), class_mapping=range(10))
    with pytest.raises(UserError, match="each class once"):
        CondensedBuffer(world.memory, order=[0, 0])
    with pytest.raises(UserError, match="gives no class the label 0"):
        feed(CondensedBuffer(world.memory, class_mapping=[-1] * 10), validated(world).train_stream)


def test_classes_that_every_experience_numbers_from_zero_are_parts_of_a_label(world):
    """Each keeps its task, and shares the place of its label."""
    stream = renumbered(
        world,
        task_labels=True,
        class_ids_from_zero_from_first_exp=False,
        class_ids_from_zero_in_each_exp=True,
    )
    buffer = feed(CondensedBuffer(world.memory, 20), stream.train_stream)
    assert buffer.seen_classes == {0, 1}
    for label, group in buffer.buffer_groups.items():
        assert [part.task for part in group.parts] == [0, 1, 2, 3, 4]
        assert [len(part.rows) for part in group.parts] == [2] * 5
        for part in group.parts:
            original = int(part.key)
            assert original in stream.original_classes_in_exp[part.task]
            assert stream.class_mapping[original] == label
            images = world.preprocess.quantise(world.memory.per_class(original))
            kept = {row.numpy().tobytes() for row in part.rows}
            assert kept <= {row.numpy().tobytes() for row in images}
        assert [row[2] for row in group.buffer] == [task for task in range(5) for _ in range(2)]


# ---- the images


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda pixels: pixels.float() / 255, "span 0.3"),
        (lambda pixels: pixels.float() / 255 * 2 - 1, "not under the preprocessing"),
        (lambda pixels: pixels.float(), "not under the preprocessing"),
    ],
    ids=["0 to 1", "-1 to 1", "0 to 255"],
)
def test_a_stream_in_another_space_is_refused(world, transform, message):
    stream = renumbered(world, train_transform=transform, eval_transform=transform)
    with pytest.raises(UserError, match=message):
        feed(CondensedBuffer(world.memory), stream.train_stream)


def test_a_set_of_another_dataset_is_refused(world):
    """Its classes have the same number, and its images the same shape and transform."""
    pixels = world.dataset.train.pixels.flatten(2)
    shuffled = pixels[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    train = dataclasses.replace(world.dataset.train, pixels=shuffled.view(-1, 1, 8, 8))
    other = Dataset("shuffled", train, world.dataset.test)
    memory = select("random", other, 10, preprocess=world.preprocess, seed=0)
    with pytest.raises(UserError, match="do not look like the stream's classes"):
        feed(CondensedBuffer(memory), renumbered(world).train_stream)


def test_sets_of_few_images_are_accepted_in_their_own_stream(digits):
    """One real image of a class is enough of a likeness, whatever the draw and the order."""
    preprocess = make_preprocess("standard", digits)
    for seed in range(5):
        memory = select("random", digits, 1, preprocess=preprocess, seed=seed)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
        stream = class_stream(digits, 5, order, preprocess=preprocess)
        assert feed(CondensedBuffer(memory), stream.train_stream).seen_classes == set(range(10))


def test_a_set_of_one_class_fits(world):
    memory = dataclasses.replace(
        world.memory, images=world.memory.images[:4], labels=world.memory.labels[:4]
    )
    assert isinstance(memory.preprocess, Standardize)
    stream = renumbered(world, class_ids_from_zero_from_first_exp=False)
    buffer = CondensedBuffer(memory)
    first = stream.train_stream[0].dataset
    rows = [row for row, label in enumerate(first.targets) if int(label) == 0]
    assert not rows  # class 0 comes later
    later = stream.train_stream[1].dataset
    rows = [row for row, label in enumerate(later.targets) if int(label) == 0]
    buffer.update_from_dataset(later.subset(rows))
    assert buffer.seen_classes == {0}


def test_images_that_are_no_longer_pictures_prove_nothing(world):
    """A mapping that the stream keeps is believed; without one the classes cannot be known."""
    noise = torch.randn(world.memory.images.shape, generator=torch.Generator().manual_seed(0))
    wild = dataclasses.replace(world.memory, images=noise * 6)
    assert feed(CondensedBuffer(wild), renumbered(world).train_stream).seen_classes == set(
        range(10)
    )
    with pytest.raises(UserError, match="does not say which class"):
        feed(CondensedBuffer(wild), validated(world).train_stream)
    mapping = renumbered(world).class_mapping
    told = CondensedBuffer(wild, class_mapping=mapping)
    assert feed(told, validated(world).train_stream).seen_classes == set(range(10))
