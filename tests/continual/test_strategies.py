"""ER-ACE, DER and iCaRL with small memories, mosaics, tasks and several heads."""

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import MTSimpleMLP, SimpleMLP, as_multitask
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.supervised import ER_ACE, ER_AML, Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from condense.errors import UserError
from condense.methods.selection import start
from condense.networks.build import build
from continual import (
    CondensedBuffer,
    CondensedBufferWithLogits,
    CondensedDER,
    CondensedERACE,
    CondensedICaRL,
    CondensedReplayPlugin,
    class_stream,
)
from continual.stream import Prepare


@pytest.fixture
def stream(world):
    return class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)


@pytest.fixture
def tasks(world):
    """Five tasks with a label each, whose samples say which task they belong to."""
    return nc_benchmark(
        TensorDataset(world.dataset.train.pixels, world.dataset.train.labels),
        TensorDataset(world.dataset.test.pixels, world.dataset.test.labels),
        n_experiences=5,
        task_labels=True,
        fixed_class_order=list(world.order),
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        train_transform=Prepare(world.preprocess),
        eval_transform=Prepare(world.preprocess),
    )


class Watch(SupervisedPlugin):
    """Notes the labels, tasks and rows of every minibatch that the model is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[set[int]] = []
        self.tasks: list[set[int]] = []
        self.rows: list[int] = []

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.labels.append(set())
        self.tasks.append(set())

    def before_forward(self, strategy, **kwargs) -> None:
        for name in ("mb_y", "mb_buffer_y"):
            self.labels[-1].update(getattr(strategy, name, torch.tensor([])).tolist())
        self.tasks[-1].update(strategy.mb_task_id.tolist())
        self.rows.append(len(strategy.mb_x))


def common(plugins, model=None, **options):
    model = model or build("convnet-d2-w16", (1, 8, 8), 10)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "train_mb_size": 16,
        "train_epochs": 1,
        "eval_mb_size": 64,
        "evaluator": None,
        "plugins": plugins,
        **options,
    }


def trained(strategy, stream, experiences=3):
    for experience in stream.train_stream[:experiences]:
        strategy.train(experience)
    return strategy


def seen(world, experiences) -> list[set[int]]:
    return [set(world.order[: 2 * (k + 1)]) for k in range(experiences)]


# ---- memories smaller than a batch


def test_er_ace_replays_a_memory_smaller_than_its_batch(world, stream):
    """Avalanche's own replays nothing of it."""
    for strategy, replayed in (
        (CondensedERACE(buffer=CondensedBuffer(world.memory), **common([])), seen(world, 3)),
        (
            ER_ACE(mem_size=40, **common([])),
            [set(world.order[2 * k : 2 * k + 2]) for k in range(3)],
        ),
    ):
        watch = Watch()
        strategy.batch_size_mem = 64
        if isinstance(strategy, ER_ACE) and not isinstance(strategy, CondensedERACE):
            strategy.storage_policy = CondensedBuffer(world.memory)
        strategy.plugins.append(watch)
        trained(strategy, stream)
        assert watch.labels == replayed
        assert strategy.batch_size_mem == 64


@pytest.mark.parametrize("strategy", [CondensedERACE, CondensedDER, CondensedICaRL])
def test_a_set_or_a_path_is_no_memory(world, strategy):
    for given in ("runs/a", world.memory):
        with pytest.raises(UserError, match=f"`buffer` is a {type(given).__name__} and no memory"):
            strategy(buffer=given, model=None, optimizer=None)
    with pytest.raises(UserError, match="a Dataset is no condensed set: give one, or its file"):
        CondensedBuffer(world.dataset)


def test_der_replays_a_memory_smaller_than_its_batch(world, stream):
    watch = Watch()
    strategy = CondensedDER(
        buffer=CondensedBufferWithLogits(world.memory), batch_size_mem=64, **common([watch])
    )
    trained(strategy, stream)
    assert watch.labels == seen(world, 3)
    assert max(watch.rows) == 16 + 16  # the memory of the third experience has 16 rows


# ---- tasks and heads


def test_batches_balanced_over_tasks(world, tasks):
    watch = Watch()
    plugin = CondensedReplayPlugin(world.memory, batch_size_mem=8, task_balanced_dataloader=True)
    model = MTSimpleMLP(input_size=64, hidden_size=16)
    trained(Naive(**common([plugin, watch], model)), tasks)
    assert watch.tasks == [{0}, {0, 1}, {0, 1, 2}]
    assert max(watch.rows) == 16 + 8


def test_der_with_several_heads(world, tasks):
    watch = Watch()
    buffer = CondensedBufferWithLogits(world.memory)
    model = as_multitask(SimpleMLP(input_size=64, hidden_size=16, num_classes=2), "classifier")
    trained(CondensedDER(buffer=buffer, batch_size_mem=8, **common([watch], model)), tasks)
    assert watch.tasks == [{0}, {0, 1}, {0, 1, 2}]
    assert all(torch.isfinite(row[3]).all() for row in buffer.buffer)


def test_der_leaves_out_units_that_a_model_did_not_have(world, stream):
    """The classifier grows with the classes; what is stored of the first has fewer logits."""
    buffer = CondensedBufferWithLogits(world.memory)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    strategy = CondensedDER(buffer=buffer, batch_size_mem=8, **common([], model))

    class Grow(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs) -> None:
            old = strategy.model[1]
            strategy.model[1] = nn.Linear(64, 10)
            with torch.no_grad():
                strategy.model[1].weight[: old.out_features] = old.weight

    shrunk = nc_benchmark(
        TensorDataset(world.dataset.train.pixels, world.dataset.train.labels),
        TensorDataset(world.dataset.test.pixels, world.dataset.test.labels),
        n_experiences=5,
        task_labels=False,
        fixed_class_order=list(range(10)),
        shuffle=False,
        train_transform=Prepare(world.preprocess),
        eval_transform=Prepare(world.preprocess),
    )
    strategy.plugins.append(Grow())
    trained(strategy, shrunk)
    first, third = buffer.buffer_groups[0].buffer[0][3], buffer.buffer_groups[4].buffer[0][3]
    assert first.isnan().tolist() == [False] * 4 + [True] * 6
    assert not third.isnan().any()
    assert all(torch.isfinite(parameter).all() for parameter in strategy.model.parameters())


# ---- iCaRL


def icarl(buffer, plugins=()):
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    classifier = nn.Linear(16, 10)
    parameters = [*extractor.parameters(), *classifier.parameters()]
    strategy = CondensedICaRL(
        buffer=buffer,
        feature_extractor=extractor,
        classifier=classifier,
        optimizer=torch.optim.SGD(parameters, lr=0.01),
        train_mb_size=16,
        eval_mb_size=64,
        evaluator=None,
        plugins=list(plugins),
    )
    return strategy, extractor


@pytest.mark.parametrize("formation", [1, 2])
def test_icarl_classifies_by_condensed_exemplars(world, stream, formation):
    memory = start(
        "random", world.dataset, 4, formation=formation, preprocess=world.preprocess, seed=0
    )
    watch = Watch()
    strategy, extractor = icarl(CondensedBuffer(memory), [watch])
    trained(strategy, stream, 2)
    means = strategy.model.eval_classifier.class_means_dict
    assert {c for c, mean in means.items() if mean.any()} == set(world.order[:4])
    assert watch.labels == seen(world, 2)
    stored = world.preprocess.apply(memory.pixels())
    for c in world.order[:4]:
        images = type(memory)(
            stored, memory.labels, memory.classes, memory.preprocess, {}, memory.formation
        ).decoded()
        own = images.per_class(c)
        with torch.no_grad():  # of the images and of their mirror images, as Avalanche does
            sides = [
                nn.functional.normalize(extractor(one), dim=1).mean(dim=0)
                for one in (own, own.flip(3))
            ]
        expected = nn.functional.normalize(sides[0] + sides[1], dim=0)
        assert torch.allclose(means[c], expected, atol=1e-4)


def test_icarl_augments_its_exemplars(world, stream):
    class Blank(SupervisedPlugin):
        blank = 0

        def before_forward(self, strategy, **kwargs) -> None:
            self.blank += int((strategy.mb_x.flatten(1) == 0).all(dim=1).sum())

    blank = Blank()
    strategy, _ = icarl(CondensedBuffer(world.memory, augment=torch.zeros_like), [blank])
    trained(strategy, stream, 2)
    assert blank.blank == 8  # one pass over the memory of the first experience
    means = strategy.model.eval_classifier.class_means_dict
    assert len({tuple(means[c].tolist()) for c in world.order[:4]}) == 4  # not of blank images


# ---- ER-AML


def test_er_aml_waits_for_ever_for_classes_of_fewer_rows_than_a_batch(world, stream):
    """It draws batches of `train_mb_size` from each class and drops smaller ones.

    Avalanche's own memory has no such batch either, and its loop over none never ends.
    """
    ours, theirs = CondensedBuffer(world.memory), ClassBalancedBuffer(40)
    for buffer in (ours, theirs):
        for experience in stream.train_stream:
            buffer.post_adapt(None, experience)
        for group in buffer.buffer_groups.values():
            assert len(DataLoader(group.buffer, batch_size=16, drop_last=True)) == 0
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    model = nn.Sequential(extractor, nn.Linear(16, 10))
    small = {
        "train_mb_size": 4,
        "mem_size": 40,
        "batch_size_mem": 4,
        "feature_extractor": extractor,
    }
    watch = Watch()
    strategy = ER_AML(**{**common([watch], model), **small})
    strategy.storage_policy = CondensedBuffer(world.memory)
    trained(strategy, stream)
    assert watch.labels == seen(world, 3)


def test_task_balanced_batches_by_avalanches_own_plugin(world, tasks):
    buffer = CondensedBuffer(world.memory)
    plugin = ReplayPlugin(
        40, batch_size_mem=8, storage_policy=buffer, task_balanced_dataloader=True
    )
    model = MTSimpleMLP(input_size=64, hidden_size=16)
    trained(Naive(**common([plugin], model)), tasks)
    assert set(buffer.buffer.task_set) == {0, 1, 2}
