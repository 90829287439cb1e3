"""The memory against Avalanche's contract.

What it exposes and when, row for row and byte for byte.
"""

import dataclasses
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.utils import DataAttribute, TransformGroups, make_avalanche_dataset
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import to_pil_image

from condense import UserError, recipe_for
from condense.data.preprocess import Whiten, make_preprocess
from condense.methods.selection import select, start
from condense.sets.condensed import CondensedSet
from condense.study.interrupt import Interrupted
from continual import CondensedBuffer, Online, class_stream, memories
from continual.orders import of_classes
from continual.stream import Prepare

AGENT = SimpleNamespace()


@pytest.fixture
def stream(world):
    return class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)


def labels_of(buffer) -> list[int]:
    return sorted({int(label) for label in buffer.buffer.targets})


def feed(buffer, stream, experiences: int) -> None:
    for experience in stream.train_stream[:experiences]:
        buffer.post_adapt(AGENT, experience)


def test_no_future_class_is_ever_exposed(world, stream):
    buffer = CondensedBuffer(world.memory)
    assert len(buffer.buffer) == 0
    for step in range(5):
        feed(buffer, stream, step + 1)
        seen = sorted(world.order[: 2 * (step + 1)])
        assert labels_of(buffer) == sorted(buffer.buffer_groups) == seen
        rows = torch.stack([row[0] for row in buffer.buffer])
        future = torch.cat(
            [world.memory.per_class(c) for c in range(10) if c not in seen]
            or [torch.full((1, 1, 8, 8), 9.0)]
        )
        assert not (rows[:, None] == future[None]).flatten(2).all(dim=2).any()


@pytest.mark.parametrize("transform", ["standard", "zca"])
def test_replayed_real_images_arrive_pixel_for_pixel_as_the_streams(world, transform):
    """A memory of training images.

    Each of its rows must be found, bit for bit, among the stream's rows of its class.
    """
    preprocess = make_preprocess(transform, world.dataset)
    assert isinstance(preprocess, Whiten) == (transform == "zca")
    stream = class_stream(world.dataset, 5, world.order, preprocess=preprocess)
    buffer = CondensedBuffer(select("random", world.dataset, 3, preprocess=preprocess, seed=0))
    feed(buffer, stream, 1)
    assert all(group.rows.dtype == torch.uint8 for group in buffer.buffer_groups.values())
    real = [(x, y) for x, y, _ in stream.train_stream[0].dataset]
    joined = stream.train_stream[0].dataset.concat(buffer.buffer)
    for dataset in (
        buffer.buffer,
        buffer.buffer.eval(),
        joined.subset(range(len(real), len(joined))),
    ):
        for row, label, task in dataset:
            assert task == 0
            assert any(label == y and torch.equal(row, x) for x, y in real)


def test_transforms_of_the_stream_are_not_applied_to_the_memory(world):
    """Real images keep the stream's augmentation, the memory's its own, in the same concatenated
    dataset.
    """
    plain, marked = Prepare(world.preprocess), Prepare(world.preprocess, torch.zeros_like)
    stream = nc_benchmark(
        TensorDataset(world.dataset.train.pixels, world.dataset.train.labels),
        TensorDataset(world.dataset.test.pixels, world.dataset.test.labels),
        n_experiences=5,
        task_labels=False,
        train_transform=marked,
        eval_transform=plain,
    )
    buffer = CondensedBuffer(world.memory)
    feed(buffer, stream, 1)
    real = stream.train_stream[0].dataset
    joined = real.concat(buffer.buffer)
    assert all(joined[i][0].abs().max() == 0 for i in range(5))
    memory = {
        row[0].numpy().tobytes() for row in world.preprocess.apply(world.memory.pixels())[:, None]
    }
    assert all(joined[i][0].numpy().tobytes() in memory for i in range(len(real), len(joined)))


def test_pictures_are_prepared_as_their_pixels_are(world):
    pixels, prepare = world.dataset.train.pixels[0], Prepare(world.preprocess)
    picture = to_pil_image(pixels)
    assert torch.equal(prepare(picture), prepare(pixels))
    with pytest.raises(UserError, match="do not fit a standardisation of 1 channels"):
        prepare(picture.convert("RGB"))


def test_augmentation_of_the_memory_is_for_training_alone(world, stream):
    for storage in ("uint8", "float32"):
        buffer = CondensedBuffer(world.memory, storage=storage, augment=torch.zeros_like)
        feed(buffer, stream, 1)
        assert buffer.buffer[0][0].abs().max() == 0
        assert buffer.buffer.eval()[0][0].abs().max() > 0


def test_float_storage_keeps_every_bit_of_synthetic_images(world, stream):
    wild = dataclasses.replace(
        world.memory, images=world.memory.images * 3 + 0.001
    )  # beyond what pixels can hold
    buffer = CondensedBuffer(wild, storage="float32")
    feed(buffer, stream, 5)
    stored = {row[0].numpy().tobytes() for row in buffer.buffer}
    assert stored == {image.numpy().tobytes() for image in wild.images}


@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_mosaics_are_replayed_decoded_and_count_as_they_are_stored(world, stream, storage):
    mosaics = start("random", world.dataset, 3, formation=2, preprocess=world.preprocess, seed=0)
    buffer = CondensedBuffer(mosaics, max_size=10, storage=storage)
    feed(buffer, stream, 5)
    assert buffer.sizes["images"] == 10
    assert len(buffer.buffer) == 40
    kept = memories.quantised(mosaics) if storage == "uint8" else mosaics
    for label, group in buffer.buffer_groups.items():
        images = mosaics.per_class(label).double()
        best = int((images - images.mean(dim=0)).square().flatten(1).sum(dim=1).argmin())
        parts = kept.decoded().per_class(label)[4 * best : 4 * best + 4]
        assert torch.equal(torch.stack([row[0] for row in group.buffer]), parts)
    restored = CondensedBuffer(mosaics, max_size=10, storage=storage)
    restored.load_state_dict(buffer.state_dict())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(buffer.buffer, restored.buffer, strict=True))


@pytest.mark.parametrize("budget", [10, 23, 40])
def test_the_memory_is_balanced_and_within_its_budget(world, stream, budget):
    buffer = CondensedBuffer(world.memory, budget)
    for step in range(5):
        feed(buffer, stream, step + 1)
        counts = [len(group.rows) for group in buffer.buffer_groups.values()]
        assert len(counts) == 2 * (step + 1)
        assert sum(counts) <= budget
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= min(4, budget // len(counts))


def test_a_byte_budget_holds_four_times_the_images_as_uint8(world, stream):
    for storage, images in (("uint8", 40), ("float32", 10)):
        buffer = CondensedBuffer(world.memory, max_bytes=40 * 64, storage=storage)
        feed(buffer, stream, 5)
        assert buffer.max_size == buffer.sizes["images"] == len(buffer.buffer) == images
        assert buffer.sizes["bytes"] == 40 * 64
        assert buffer.sizes["float32"] == 4 * buffer.sizes["uint8"]


def test_shrinking_keeps_those_whose_mean_is_nearest(world, stream):
    """The one kept of four is, by exhaustive search, the one nearest to the mean of its class's
    four.
    """
    buffer = CondensedBuffer(world.memory)
    feed(buffer, stream, 5)
    buffer.resize(AGENT, 10)
    for c, group in buffer.buffer_groups.items():
        four = world.memory.per_class(c)
        nearest = (four - four.mean(dim=0)).flatten(1).norm(dim=1).argmin()
        assert torch.equal(group.rows[0], world.preprocess.quantise(four[nearest][None])[0])
        assert list(group.buffer.targets) == [c]


def test_labels_that_the_stream_renumbers_are_followed(world):
    stream = nc_benchmark(
        TensorDataset(world.dataset.train.pixels, world.dataset.train.labels),
        TensorDataset(world.dataset.test.pixels, world.dataset.test.labels),
        n_experiences=5,
        task_labels=False,
        fixed_class_order=list(world.order),
        shuffle=False,
        class_ids_from_zero_from_first_exp=True,
        train_transform=Prepare(world.preprocess),
        eval_transform=Prepare(world.preprocess),
    )
    buffer = CondensedBuffer(world.memory)
    feed(buffer, stream, 1)
    assert labels_of(buffer) == [0, 1]
    for label, original in enumerate(world.order[:2]):
        found = {row.numpy().tobytes() for row in buffer.buffer_groups[label].rows}
        assert found == {
            row.numpy().tobytes()
            for row in world.preprocess.quantise(world.memory.per_class(original))
        }


def test_samples_have_the_arity_of_the_streams(world, stream):
    buffer = CondensedBuffer(world.memory)
    feed(buffer, stream, 1)
    assert len(buffer.buffer[0]) == len(stream.train_stream[0].dataset[0]) == 3

    labels = world.dataset.train.labels.tolist()
    plain = make_avalanche_dataset(
        TensorDataset(world.dataset.train.pixels, world.dataset.train.labels),
        data_attributes=[DataAttribute(labels, "targets")],
        transform_groups=TransformGroups(
            {"train": Prepare(world.preprocess), "eval": Prepare(world.preprocess)}
        ),
    )
    pairs = class_incremental_benchmark(
        {"train": plain}, num_experiences=5, class_order=list(world.order)
    )
    buffer = CondensedBuffer(world.memory)
    buffer.post_adapt(AGENT, pairs.train_stream[0])
    assert len(buffer.buffer[0]) == len(pairs.train_stream[0].dataset[0]) == 2
    assert labels_of(buffer) == sorted(world.order[:2])


def test_pickle_state_and_worker_processes_give_the_same_rows(world, stream):
    buffer = CondensedBuffer(world.memory, 20)
    feed(buffer, stream, 5)
    rows = [row[0] for row in buffer.buffer]
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = CondensedBuffer(world.memory)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for other in (pickle.loads(pickle.dumps(buffer)), restored):
        assert other.max_size == 20
        assert all(torch.equal(a, b[0]) for a, b in zip(rows, other.buffer, strict=True))
    (batch, labels, _), *rest = DataLoader(
        buffer.buffer, batch_size=20, num_workers=1, multiprocessing_context="spawn"
    )
    assert not rest
    assert torch.equal(batch, torch.stack(rows))
    assert labels.tolist() == list(buffer.buffer.targets)
    with pytest.raises(UserError, match="stored as uint8"):
        CondensedBuffer(world.memory, storage="float32").load_state_dict(buffer.state_dict())


def test_bad_input_is_named(world, stream, tmp_path):
    with pytest.raises(UserError, match="9 images is less than one for each of 10 classes"):
        CondensedBuffer(world.memory, 9)
    with pytest.raises(UserError, match="give one of them"):
        CondensedBuffer(world.memory, 20, max_bytes=3)
    with pytest.raises(UserError, match="unknown storage"):
        CondensedBuffer(world.memory, storage="float16")
    with pytest.raises(UserError, match="no condensed set"):
        CondensedBuffer(tmp_path / "none.safetensors")
    buffer = CondensedBuffer(world.memory)
    feed(buffer, stream, 5)
    with pytest.raises(UserError, match="5 images is less"):
        buffer.resize(AGENT, 5)
    with pytest.raises(UserError, match=f"no images of class {world.order[0]}"):
        feed(CondensedBuffer(memories.of_set(world.memory, world.order[1:])), stream, 1)
    with pytest.raises(UserError, match="another order"):
        feed(
            CondensedBuffer(dataclasses.replace(world.memory, classes=world.memory.classes[::-1])),
            stream,
            1,
        )
    large = dataclasses.replace(world.memory, images=world.memory.images.repeat(1, 1, 2, 2))
    with pytest.raises(UserError, match=r"float32 \(1, 8, 8\), the memory's float32 \(1, 16, 16\)"):
        feed(CondensedBuffer(large), stream, 1)


# ---- online


@pytest.fixture
def online(world, tmp_path) -> Online:
    recipe = recipe_for("paper", "digits", (1, 8, 8), 2).override(
        {"loss_scale": 100, "real_batch": 8, "network": "convnet-d2-w16"}
    )
    return Online(
        shape=(1, 8, 8), preprocess=world.preprocess, folder=tmp_path, ipc=2, recipe=recipe, steps=4
    )


def test_online_condenses_an_experience_of_its_training_images_alone(
    world, stream, online, monkeypatch
):
    seen = []
    condense = Online.condense
    monkeypatch.setattr(
        Online, "condense", lambda self, images: seen.append(images) or condense(self, images)
    )
    buffer = CondensedBuffer(online, max_size=20)
    feed(buffer, stream, 2)
    assert labels_of(buffer) == sorted(world.order[:4])
    assert [len(group.rows) for group in buffer.buffer_groups.values()] == [2] * 4
    for step, images in enumerate(seen):
        group = sorted(world.order[2 * step : 2 * step + 2])
        expected = of_classes(world.dataset, group).train
        for c in (0, 1):  # every pixel went through the stream and back
            assert torch.equal(
                images.pixels[images.of_class(c)], expected.pixels[expected.of_class(c)]
            )
        assert len(images) == len(expected)
        assert images.classes == tuple(map(str, group))
    condensed = seen and condense(online, seen[0])
    first = buffer.buffer_groups[min(world.order[:2])].rows
    pixels = condensed.preprocess.quantise(condensed.per_class(0))
    assert {row.numpy().tobytes() for row in first} == {row.numpy().tobytes() for row in pixels}


def test_an_interrupted_online_condensation_goes_on_to_the_same_images(
    world, online, monkeypatch, tmp_path
):
    images = of_classes(world.dataset, world.order[:2]).train
    whole = dataclasses.replace(online, folder=tmp_path / "whole").condense(images)
    from condense.runs.engine import Engine

    real, calls = Engine.step, []

    def step(self, number):
        if number == 2 and not calls:
            calls.append(number)
            raise Interrupted("power cut")
        return real(self, number)

    monkeypatch.setattr(Engine, "step", step)
    with pytest.raises(Interrupted):
        online.condense(images)
    resumed = online.condense(images)
    assert resumed.fingerprint == whole.fingerprint
    monkeypatch.setattr(Engine, "step", lambda *_: pytest.fail("condensed twice"))
    assert online.condense(images).fingerprint == whole.fingerprint


def test_a_budget_of_seconds_decides_the_steps_once(world, online):
    images = of_classes(world.dataset, world.order[:2]).train
    timed = dataclasses.replace(online, steps=None, seconds=0.05)
    first = timed.condense(images)
    assert first.provenance["steps"] >= 1
    assert timed.condense(images).fingerprint == first.fingerprint


def test_bad_online_input_is_named(world, stream, online):
    with pytest.raises(UserError, match="needs a budget"):
        CondensedBuffer(online)
    with pytest.raises(UserError, match="give one of them"):
        dataclasses.replace(online, seconds=3.0)
    with pytest.raises(UserError, match="above 0"):
        dataclasses.replace(online, steps=None, seconds=0.0)
    with pytest.raises(UserError, match="1 images is less than one for each of 2"):
        feed(CondensedBuffer(online, max_size=1), stream, 1)
    other = dataclasses.replace(
        online, preprocess=dataclasses.replace(world.preprocess, std=world.preprocess.std * 3)
    )
    with pytest.raises(UserError, match="not under the preprocessing"):
        feed(CondensedBuffer(other, max_size=20), stream, 1)
    single = world.dataset.train.of_class(world.order[0])[:1]
    rest = (world.dataset.train.labels != world.order[0]).nonzero().flatten()
    lonely = dataclasses.replace(
        world.dataset, train=world.dataset.train.subset(torch.cat([single, rest]))
    )
    with pytest.raises(
        UserError, match="ipc 2 is more than class `3` of stream has: 1 training images"
    ):
        feed(
            CondensedBuffer(online, max_size=20),
            class_stream(lonely, 5, world.order, preprocess=world.preprocess),
            1,
        )


def test_the_set_may_be_a_file(world, stream, tmp_path):
    path = world.memory.save(tmp_path / "memory.safetensors")
    buffer = CondensedBuffer(path)
    feed(buffer, stream, 1)
    assert isinstance(buffer.source, CondensedSet)
    assert len(buffer.buffer) == 8


def test_a_set_made_with_a_network_of_another_script_is_a_memory(world):
    """Only whether to warn depends on the network, which this program cannot build."""
    recipe = recipe_for("dm", "digits", (1, 8, 8), 4).override({"network": "elsewhere:small"})
    facts = {"recipe": recipe.to_json()}
    memory = dataclasses.replace(world.memory, provenance=facts)
    assert CondensedBuffer(memory, 20).max_size == 20
    facts = {"recipe": recipe.override({"init": "k-center"}).to_json()}
    with pytest.warns(UserWarning, match="of all its classes at once"):
        CondensedBuffer(dataclasses.replace(world.memory, provenance=facts), 20)
