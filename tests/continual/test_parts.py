"""What a memory is given over time: online and domain-incremental streams, growth, checkpoints."""

import dataclasses
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import ni_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from torch.utils.data import TensorDataset

from condense import UserError, recipe_for
from condense.methods.selection import select
from condense.sets.condensed import CondensedSet
from continual import CondensedBuffer, CondensedBufferWithLogits, Online, Plan, class_stream
from continual.orders import of_classes
from continual.stream import Prepare

AGENT = SimpleNamespace()


@pytest.fixture
def stream(world):
    return class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)


@pytest.fixture
def online(world, tmp_path) -> Online:
    recipe = recipe_for("paper", "digits", (1, 8, 8), 2).override(
        {"loss_scale": 100, "real_batch": 8, "network": "convnet-d2-w16"}
    )
    return Online(
        shape=(1, 8, 8), preprocess=world.preprocess, folder=tmp_path, ipc=2, recipe=recipe, steps=2
    )


def feed(buffer, experiences):
    for experience in experiences:
        buffer.post_adapt(AGENT, experience)
    return buffer


def rows(buffer) -> dict[int, list]:
    return {label: group.rows.tolist() for label, group in buffer.buffer_groups.items()}


# ---- online and domain-incremental streams


@pytest.mark.parametrize("size", [7, None], ids=["an odd rest", "divides evenly"])
def test_an_online_experience_is_condensed_once_from_all_its_images(
    world, stream, online, monkeypatch, size
):
    seen = []
    condense = Online.condense
    monkeypatch.setattr(
        Online, "condense", lambda self, images: seen.append(images) or condense(self, images)
    )
    first = stream.train_stream[0]
    size = size or len(first.dataset) // 2 + len(first.dataset) % 2
    assert len(first.dataset) % size or len(first.dataset) // size == 2
    pieces = list(split_online_stream([first], size, access_task_boundaries=True, seed=0))
    buffer = CondensedBuffer(online, max_size=20)
    feed(buffer, pieces[:-1])
    assert not seen
    assert len(buffer.buffer) == 0
    feed(buffer, pieces[-1:])
    assert len(seen) == 1
    expected = of_classes(world.dataset, sorted(world.order[:2])).train
    for c in (0, 1):
        ours, theirs = (one.pixels[one.labels == c] for one in (seen[0], expected))
        assert sorted(ours.flatten(1).tolist()) == sorted(theirs.flatten(1).tolist())
    feed(buffer, pieces[-1:])  # as ER-ACE does
    assert len(seen) == 1
    assert buffer.seen_classes == set(world.order[:2])


def test_an_online_memory_has_as_many_images_a_class_as_a_run_unless_told_otherwise(world):
    online = Online(shape=(1, 8, 8), preprocess=world.preprocess, folder="unused")
    assert (online.ipc, online.seed) == (Plan(steps=5).ipc, Plan(steps=5).seed)


def test_an_online_stream_that_hides_its_boundaries_is_refused(stream, online):
    pieces = split_online_stream(stream.train_stream, 20, seed=0)
    with pytest.raises(UserError, match="access_task_boundaries=True"):
        feed(CondensedBuffer(online, max_size=20), pieces)


def test_every_domain_of_a_class_has_a_share(world, online):
    """All classes come in each experience, with other images."""
    pixels, labels = world.dataset.train.pixels, world.dataset.train.labels
    stream = ni_benchmark(
        TensorDataset(pixels, labels),
        TensorDataset(pixels, labels),
        n_experiences=2,
        balance_experiences=True,
        shuffle=False,
        train_transform=Prepare(world.preprocess),
        eval_transform=Prepare(world.preprocess),
    )
    buffer = feed(CondensedBuffer(online, max_size=20), stream.train_stream[:1])
    alone = rows(buffer)
    feed(buffer, stream.train_stream[1:])
    for label, group in buffer.buffer_groups.items():
        assert [len(part.rows) for part in group.parts] == [1, 1]
        assert group.parts[0].rows.tolist() == alone[label][:1]
    again = rows(buffer)
    feed(buffer, stream.train_stream[1:])  # the same images are not another domain
    assert rows(buffer) == again


# ---- what Avalanche's own buffers offer


def test_a_memory_that_grows_takes_what_the_set_has(world, stream):
    full = feed(CondensedBuffer(world.memory), stream.train_stream)
    buffer = feed(CondensedBuffer(world.memory, 10), stream.train_stream)
    assert [len(group.rows) for group in buffer.buffer_groups.values()] == [1] * 10
    buffer.resize(AGENT, 40)
    assert rows(buffer) == rows(full)


def test_a_dataset_is_as_good_as_an_experience(world, stream):
    buffer = CondensedBuffer(world.memory)
    for experience in stream.train_stream:
        buffer.update_from_dataset(experience.dataset)
    assert buffer.seen_classes == set(range(10))
    assert rows(buffer) == rows(feed(CondensedBuffer(world.memory), stream.train_stream))
    buffer.update_from_dataset(stream.train_stream[0].dataset.subset([]))


def test_shares_that_do_not_adapt(world, stream):
    buffer = CondensedBuffer(world.memory, 20, adaptive_size=False, total_num_classes=10)
    for step in range(5):
        feed(buffer, stream.train_stream[step : step + 1])
        assert {len(group.rows) for group in buffer.buffer_groups.values()} == {2}
    for wrong in ({"adaptive_size": False}, {"total_num_classes": 10}):
        with pytest.raises(UserError, match="give both or none"):
            CondensedBuffer(world.memory, **wrong)
    with pytest.raises(UserError, match="less than one for each of 30 classes"):
        CondensedBuffer(world.memory, 20, adaptive_size=False, total_num_classes=30)


def test_what_a_set_loses_or_knows_as_a_memory_is_said(world):
    soft = dataclasses.replace(
        world.memory, labels=torch.nn.functional.one_hot(world.memory.labels, 10).float()
    )
    with pytest.warns(UserWarning, match="labels are soft") as told:
        CondensedBuffer(soft)
    assert told[0].filename == __file__  # it points at who made the memory
    joint = select(
        "herding", world.dataset, 2, preprocess=world.preprocess, seed=0, feature_epochs=1
    )
    with pytest.warns(UserWarning, match="made of all its classes at once") as told:
        CondensedBuffer(joint)
    assert told[0].filename == __file__


class Counting(torch.nn.Module):
    """A model whose logits are all the number of the experience."""

    number = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 10), float(self.number))


def test_rows_that_stay_keep_the_logits_of_their_own_experience(world, stream):
    model = Counting().train()
    agent = SimpleNamespace(model=model, device=torch.device("cpu"), eval_mb_size=3)
    buffer = CondensedBufferWithLogits(world.memory, 20)
    for model.number, experience in enumerate(stream.train_stream):
        buffer.post_adapt(agent, experience)
    assert model.training  # as it was
    for label, group in buffer.buffer_groups.items():
        came = world.order.index(label) // 2
        assert [len(group.rows), len(group.buffer)] == [2, 2]
        assert all((logits == came).all() for *_, logits in group.buffer)


# ---- checkpoints


def test_a_state_of_another_set_is_refused(world, stream, online):
    state = feed(CondensedBuffer(world.memory), stream.train_stream).state_dict()
    other = select("random", world.dataset, 4, preprocess=world.preprocess, seed=1)
    for buffer in (CondensedBuffer(other), CondensedBuffer(online, max_size=40)):
        with pytest.raises(UserError, match="made of source"):
            buffer.load_state_dict(state)


def test_a_checkpoint_holds_no_class_that_is_still_to_come(world, stream, tmp_path):
    """Not its images, nor their bytes; and the memory goes on when it is read again."""
    path = world.memory.save(tmp_path / "memory.safetensors")
    for source in (world.memory, path):
        buffer = feed(CondensedBuffer(source), stream.train_stream[:1])
        content = pickle.dumps(buffer)
        assert len(content) < 12_000  # 8 rows of 64 bytes; the set has 40 of 256
        for c in range(10):
            images = world.memory.per_class(c)
            stored = images[0].numpy().tobytes() in content
            pixels = world.preprocess.quantise(images)[0].numpy().tobytes() in content
            assert not stored
            assert pixels == (c in world.order[:2])
        again = pickle.loads(content)
        feed(again, stream.train_stream[1:])
        assert rows(again) == rows(feed(CondensedBuffer(source), stream.train_stream))


def test_a_checkpoint_without_its_set_says_so(world, stream, tmp_path):
    lonely = dataclasses.replace(world.memory, images=world.memory.images + 0.25)
    path = lonely.save(tmp_path / "memory.safetensors")
    held, read = (CondensedBuffer(source, storage="float32") for source in (lonely, path))
    contents = [pickle.dumps(one) for one in (held, read)]
    del held, read, lonely
    lost, found = map(pickle.loads, contents)
    with pytest.raises(UserError, match="names the condensed set"):
        _ = lost.source
    assert isinstance(found.source, CondensedSet)
    del found
    world.memory.save(path)
    with pytest.raises(UserError, match="restore the file"):
        _ = pickle.loads(contents[1]).source


def test_a_state_is_plain_tensors_and_numbers(world, stream):
    buffer = feed(CondensedBuffer(world.memory, 20), stream.train_stream[:3])
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = CondensedBuffer(world.memory)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert rows(feed(restored, stream.train_stream[3:])) == rows(
        feed(CondensedBuffer(world.memory, 20), stream.train_stream)
    )
