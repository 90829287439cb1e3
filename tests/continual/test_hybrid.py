"""A memory that real images fill until condensed ones arrive, and beside them."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from torch import nn

from condense import UserError, recipe_for
from condense.methods.selection import select
from continual import CondensedBuffer, CondensedBufferWithLogits, Online, class_stream

AGENT = SimpleNamespace()


@pytest.fixture
def stream(world):
    return class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)


@pytest.fixture
def synthetic(world):
    """A memory of images that are not in the stream: those of the training set, paler."""
    train = select("random", world.dataset, 2, preprocess=world.preprocess, seed=3)
    return dataclasses.replace(train, images=train.images * 0.9)


def feed(buffer, experiences):
    for experience in experiences:
        buffer.post_adapt(AGENT, experience)
    return buffer


def kinds(group) -> tuple[int, int]:
    """How many condensed and how many real rows a class has."""
    real = [part.weights is not None for part in group.parts for _ in part.rows]
    return real.count(False), real.count(True)


@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_the_whole_budget_is_used_from_the_first_experience(world, stream, synthetic, storage):
    buffer = CondensedBuffer(synthetic, 20, fill="real", storage=storage)
    for step in range(5):
        feed(buffer, stream.train_stream[step : step + 1])
        assert buffer.sizes["images"] == len(buffer.buffer) == 20
        expected = {2: (2, 8), 4: (2, 3), 6: (2, 1), 8: (2, 0), 10: (2, 0)}[2 * step + 2]
        for group in buffer.buffer_groups.values():
            condensed, real = kinds(group)
            assert condensed == expected[0]
            assert real in (expected[1], expected[1] + 1)  # what does not divide


@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_real_images_arrive_as_the_streams_and_are_of_their_class(
    world, stream, synthetic, storage
):
    buffer = feed(
        CondensedBuffer(synthetic, 40, fill="real", storage=storage), stream.train_stream[:2]
    )
    real = [row for one in stream.train_stream[:2] for row in one.dataset.eval()]
    for label, group in buffer.buffer_groups.items():
        own = [x for x, y, _ in real if y == label]
        found = [any(torch.equal(x, one) for one in own) for x, *_ in group.buffer]
        assert found == [False] * 2 + [True] * 8
        assert all(other[1] == label for other in group.buffer)


def test_real_images_are_drawn_from_all_pieces_alike(world, stream, synthetic):
    """Real images of every piece of an online experience stay with the same chance."""
    torch.manual_seed(0)
    experience = stream.train_stream[0]
    pieces = list(split_online_stream([experience], 10, seed=0))
    origin = {}
    for number, piece in enumerate(pieces):
        for x, _, _ in piece.dataset.eval():
            origin[x.numpy().tobytes()] = number
    counts = [0] * len(pieces)
    for _ in range(40):
        buffer = feed(CondensedBuffer(synthetic, 20, fill="real"), pieces)
        assert buffer.sizes["images"] == 20
        for group in buffer.buffer_groups.values():
            for x, *_ in list(group.buffer)[2:]:
                counts[origin[x.numpy().tobytes()]] += 1
    assert sum(counts) == 40 * 16
    shares = [count / sum(counts) for count in counts]
    sizes = [len(piece.dataset) / len(experience.dataset) for piece in pieces]
    assert all(abs(a - b) < 0.06 for a, b in zip(shares, sizes, strict=True))


def test_real_images_stand_in_until_an_online_experience_has_ended(world, stream, tmp_path):
    recipe = recipe_for("paper", "digits", (1, 8, 8), 2).override(
        {"loss_scale": 100, "real_batch": 8, "network": "convnet-d2-w8"}
    )
    online = Online(
        shape=(1, 8, 8), preprocess=world.preprocess, folder=tmp_path, ipc=2, recipe=recipe, steps=1
    )
    first = stream.train_stream[0]
    pieces = list(split_online_stream([first], 20, access_task_boundaries=True, seed=0))
    buffer = feed(CondensedBuffer(online, 12, fill="real"), pieces[:-1])
    assert [kinds(group) for group in buffer.buffer_groups.values()] == [(0, 6)] * 2
    feed(buffer, pieces[-1:])
    assert [kinds(group) for group in buffer.buffer_groups.values()] == [(2, 4)] * 2


def test_real_images_have_logits_for_der(world, stream, synthetic):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    agent = SimpleNamespace(model=model, device=torch.device("cpu"), eval_mb_size=64)
    buffer = CondensedBufferWithLogits(synthetic, 20, fill="real")
    for experience in stream.train_stream[:2]:
        buffer.post_adapt(agent, experience)
    rows = list(buffer.buffer)
    assert len(rows) == 20
    with torch.no_grad():
        expected = model(torch.stack([row[0] for row in rows]))
    assert torch.allclose(torch.stack([row[3] for row in rows]), expected, atol=1e-5)
    with pytest.raises(UserError, match="give `update_from_dataset` the strategy"):
        buffer.update_from_dataset(stream.train_stream[2].dataset)


def test_the_hardest_real_images_stay(world, stream, synthetic):
    """Those with the largest loss when they come, of all pieces of an experience."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    agent = SimpleNamespace(model=model, device=torch.device("cpu"), eval_mb_size=64)
    first = stream.train_stream[0]
    images, labels, _ = (
        torch.stack(list(map(torch.as_tensor, one)))
        for one in zip(*first.dataset.eval(), strict=True)
    )
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
    for pieces in ([first], split_online_stream([first], 10, seed=0)):
        buffer = CondensedBuffer(synthetic, 20, fill="hard")
        for piece in pieces:
            buffer.post_adapt(agent, piece)
        for label, group in buffer.buffer_groups.items():
            own = (labels == label).nonzero().flatten()
            hardest = images[own[losses[own].argsort(descending=True)[:8]]]
            assert kinds(group) == (2, 8)
            assert torch.equal(torch.stack([x for x, *_ in group.buffer])[2:], hardest)
    with pytest.raises(UserError, match="give `update_from_dataset` the strategy"):
        buffer.update_from_dataset(stream.train_stream[1].dataset)


def test_classes_that_a_model_has_no_unit_for_are_hard(world, stream, synthetic):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))  # the classes are 3 and 1
    agent = SimpleNamespace(model=model, device=torch.device("cpu"), eval_mb_size=64)
    buffer = CondensedBuffer(synthetic, 20, fill="hard")
    buffer.post_adapt(agent, stream.train_stream[0])
    assert [kinds(group) for group in buffer.buffer_groups.values()] == [(2, 8)] * 2


def test_checkpoints_bring_real_images_back(world, stream, synthetic):
    buffer = feed(CondensedBuffer(synthetic, 20, fill="real"), stream.train_stream[:2])
    other = CondensedBuffer(synthetic, 20, fill="real")
    other.load_state_dict(buffer.state_dict())
    assert [kinds(group) for group in other.buffer_groups.values()] == [(2, 3)] * 4
    with pytest.raises(UserError, match="unknown filling"):
        CondensedBuffer(synthetic, fill="reel")
