"""The memory in Avalanche's strategies: that they run, replay it, and replay nothing else."""

import inspect

import pytest
import torch
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from avalanche.models import SCRModel
from avalanche.training.plugins import (
    BiCPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import DER, ER_ACE, SCR, Naive
from torch import nn

from condense.errors import UserError
from condense.networks.build import build
from condense.training.protocol import Protocol
from continual import (
    CondensedBuffer,
    CondensedBufferWithLogits,
    CondensedGDumb,
    CondensedReplayPlugin,
    class_stream,
)
from continual.plugins import STRATEGIES, WITH_LOGITS, build_strategy


@pytest.fixture
def stream(world):
    return class_stream(world.dataset, 5, world.order, preprocess=world.preprocess)


class Watch(SupervisedPlugin):
    """Notes, for each experience, the labels that the model is trained on and how many rows a
    minibatch has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[set[int]] = []
        self.rows: list[int] = []

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.labels.append(set())

    def before_forward(self, strategy, **kwargs) -> None:
        for name in ("mb_y", "mb_buffer_y"):
            self.labels[-1].update(getattr(strategy, name, torch.tensor([])).tolist())
        self.rows.append(len(strategy.mb_x))


def common(plugins, **options):
    model = build("convnet-d2-w16", (1, 8, 8), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    chosen = {
        "train_mb_size": 16,
        "train_epochs": 1,
        "eval_mb_size": 64,
        "evaluator": None,
        "plugins": plugins,
    }
    return {"model": model, "optimizer": optimizer, **chosen, **options}


def trained(strategy, stream, experiences=3, **options):
    for experience in stream.train_stream[:experiences]:
        strategy.train(experience, **options)
    return strategy


def seen(world, experiences) -> list[set[int]]:
    return [set(world.order[: 2 * (k + 1)]) for k in range(experiences)]


@pytest.mark.parametrize(
    "extra", [[], [LwFPlugin(alpha=1.0, temperature=2.0)]], ids=["naive", "lwf"]
)
def test_replay_by_avalanches_own_plugin(world, stream, extra):
    buffer, watch = CondensedBuffer(world.memory), Watch()
    replay = ReplayPlugin(mem_size=40, storage_policy=buffer)
    trained(Naive(**common([replay, *extra, watch])), stream)
    assert watch.labels == seen(world, 3)
    assert set(buffer.buffer_groups) == set(world.order[:6])


def test_replay_in_one_line(world, stream):
    watch = Watch()
    trained(Naive(**common([CondensedReplayPlugin(world.memory), watch])), stream)
    assert watch.labels == seen(world, 3)
    with pytest.raises(UserError, match="already made"):
        CondensedReplayPlugin(CondensedBuffer(world.memory), 10)


def test_drop_last_does_not_switch_replay_off(world, stream):
    """The first memory, 8 rows, is smaller than the 16 that a batch would take.

    Avalanche's own plugin replays nothing.
    """
    for plugin, replayed in (
        (CondensedReplayPlugin(world.memory), seen(world, 2)[1]),
        (
            ReplayPlugin(mem_size=40, storage_policy=CondensedBuffer(world.memory)),
            set(world.order[2:4]),
        ),
    ):
        watch = Watch()
        trained(Naive(**common([plugin, watch])), stream, 2, drop_last=True)
        assert watch.labels[1] == replayed


def test_gdumb_trains_on_the_memory_alone_and_from_the_first_weights(world, stream):
    starts = []

    class Start(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs) -> None:
            starts.append(
                torch.cat([p.detach().flatten().clone() for p in strategy.model.parameters()])
            )

    watch = Watch()
    trained(Naive(**common([CondensedGDumb(world.memory), watch, Start()])), stream)
    assert watch.labels == seen(world, 3)
    assert sum(watch.rows) == 8 + 16 + 24
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_er_ace(world, stream):
    watch = Watch()
    strategy = ER_ACE(**common([watch]), mem_size=40, batch_size_mem=8)
    strategy.storage_policy = CondensedBuffer(world.memory)
    trained(strategy, stream)
    assert watch.labels == seen(world, 3)


def test_mir(world, stream):
    plugin, drawn = MIRPlugin(mem_size=40, batch_size_mem=4, subsample=8), []
    plugin.storage_policy = CondensedBuffer(world.memory)

    class Drawn(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs) -> None:
            drawn.append(plugin.replay_loader is not None)

    trained(Naive(**common([plugin, Drawn()])), stream)
    assert not drawn[0]
    assert drawn[-1]


def test_scr_classifies_by_the_means_of_the_memory(world, stream):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    model = SCRModel(encoder, nn.Linear(16, 8))
    strategy = SCR(
        **{
            **common(None),
            "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        },
        mem_size=40,
    )
    strategy.replay_plugin.storage_policy = CondensedBuffer(world.memory)
    trained(strategy, stream, 2)
    means = model.eval_classifier.class_means_dict
    assert set(means) == set(world.order[:4])
    with torch.no_grad():
        for c in world.order[2:4]:  # those of earlier classes are averaged with what they were
            pixels = world.preprocess.apply(world.memory.pixels())[world.memory.labels == c]
            mean = nn.functional.normalize(encoder(pixels), dim=1).mean(dim=0)
            assert torch.allclose(means[c], nn.functional.normalize(mean, dim=0), atol=1e-5)


def test_bic_as_far_as_its_own_defect_allows(world, stream):
    """Avalanche 0.6 passes `verbose` to a scheduler that has lost it in PyTorch.

    The second experience ends so.
    """
    buffer = CondensedBuffer(world.memory)
    plugin = BiCPlugin(
        mem_size=40, storage_policy=buffer, val_percentage=0.2, stage_2_epochs=2, num_workers=0
    )
    strategy = Naive(**common([plugin]))
    if "verbose" in inspect.signature(torch.optim.lr_scheduler.MultiStepLR).parameters:
        trained(strategy, stream, 2)
    else:
        with pytest.raises(TypeError, match="verbose"):
            trained(strategy, stream, 2)
    assert set(buffer.buffer_groups) == set(world.order[:4])


def test_der_replays_the_logits_of_the_model_at_the_end_of_the_experience(world, stream):
    strategy = DER(**common([]), mem_size=40, batch_size_mem=8)
    buffer = strategy.storage_policy = CondensedBufferWithLogits(world.memory, 20)
    expected = {}
    for experience in stream.train_stream[:3]:
        strategy.train(experience)
        strategy.model.eval()
        with torch.no_grad():
            for c in experience.classes_in_this_experience:
                rows = world.preprocess.apply(buffer.buffer_groups[c].rows)
                expected[c] = strategy.model(rows)
    assert set(buffer.buffer_groups) == set(expected)
    for c, group in buffer.buffer_groups.items():  # by now the earlier ones have shrunk
        for (_, label, task, logits), wanted in zip(group.buffer, expected[c], strict=False):
            assert (label, task) == (c, 0)
            assert torch.allclose(logits, wanted, atol=1e-5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_of_the_protocol_see_each_seen_class_and_no_other(world, stream, name):
    """Even where the memory is smaller than a batch."""
    watch = Watch()
    model = build("convnet-d2-w8", (1, 8, 8), 10)
    kind = CondensedBufferWithLogits if name in WITH_LOGITS else CondensedBuffer
    strategy = build_strategy(
        name,
        model,
        kind(world.memory),
        Protocol(epochs=2, batch=32, augment="none"),
        seed=0,
        device=torch.device("cpu"),
        evaluator=None,
    )
    strategy.plugins.append(watch)
    trained(strategy, stream, 3)
    rates = [group["lr"] for group in strategy.optimizer.param_groups]
    assert rates == pytest.approx([0.001] * len(rates))
    if name != "mir":  # it draws its rows apart from the minibatch
        assert watch.labels == seen(world, 3)


def test_avalanches_checkpoints_bring_the_memory_back(world, stream, tmp_path):
    def fresh() -> Naive:
        return Naive(**common([CondensedReplayPlugin(world.memory, 20)]))

    before = trained(fresh(), stream, 2)
    save_checkpoint(
        before, tmp_path / "checkpoint", exclude=["optimizer"]
    )  # PyTorch's optimizers do not pickle as it does it
    after, experiences = maybe_load_checkpoint(fresh(), tmp_path / "checkpoint")
    assert experiences == 2
    ours, theirs = (strategy.plugins[0].storage_policy for strategy in (before, after))
    assert {c: group.rows.tolist() for c, group in ours.buffer_groups.items()} == {
        c: group.rows.tolist() for c, group in theirs.buffer_groups.items()
    }
    watch = Watch()
    after.plugins.append(watch)
    after.train(stream.train_stream[2])
    assert watch.labels == seen(world, 3)[2:]
