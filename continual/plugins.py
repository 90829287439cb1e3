"""Avalanche plugins and strategies with a condensed memory: replay, GDumb, iCaRL and others.

`STRATEGIES` builds each strategy of mode `replay`. Where Avalanche makes a storage policy of its
own, ours replaces it after construction. ER-ACE, MIR, SCR and GDumb need no more than that.
"""

from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import (
    GDumbPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.storage_policy import ExemplarsBuffer
from avalanche.training.supervised import ER_ACE, ICaRL, Naive
from avalanche.training.supervised.icarl import _ICaRLPlugin
from torch import nn
from torch.utils.data import DataLoader

from condense.data.augment import make_augment
from condense.errors import UserError
from condense.training.train import Protocol
from continual.buffer import CondensedBuffer


class CondensedReplayPlugin(ReplayPlugin):
    """Replay of condensed images next to those of the current experience.

    It is used as `plugins=[CondensedReplayPlugin("runs/cifar100")]`.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> CondensedReplayPlugin(memory, max_size=20).storage_policy.max_size
    20
    """

    def __init__(
        self,
        source: Any,
        max_size: int | None = None,
        *,
        batch_size: int | None = None,
        batch_size_mem: int | None = None,
        task_balanced_dataloader: bool = False,
        **options: Any,
    ) -> None:
        """`source`, `max_size` and `options` are those of `CondensedBuffer`, or `source` is one.

        The other parameters are those of `ReplayPlugin`.
        """
        buffer = _buffer(source, max_size, options)
        super().__init__(
            mem_size=buffer.max_size,  # it asserts that they are equal
            batch_size=batch_size,
            batch_size_mem=batch_size_mem,
            task_balanced_dataloader=task_balanced_dataloader,
            storage_policy=buffer,
        )

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """As in `ReplayPlugin`, but a small memory is replayed with `drop_last` too.

        It makes a smaller batch, where `ReplayPlugin` would silently replay nothing.
        """
        wanted: Any = self.batch_size_mem  # type: ignore[has-type]
        if kwargs.get("drop_last"):
            rows = len(self.storage_policy.buffer)
            self.batch_size_mem = min(wanted or strategy.train_mb_size, max(rows, 1))
        try:
            super().before_training_exp(strategy, **kwargs)
        finally:
            self.batch_size_mem = wanted


class CondensedGDumb(GDumbPlugin):
    """GDumb: at each experience the model is trained from its first weights on the memory alone.

    This is how the papers on condensation measure memories.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> CondensedGDumb(memory).storage_policy.max_size
    40
    """

    def __init__(self, source: Any, max_size: int | None = None, **options: Any) -> None:
        """`source`, `max_size` and `options` are those of `CondensedBuffer`, or `source` is one."""
        buffer = _buffer(source, max_size, options)
        super().__init__(mem_size=buffer.max_size)
        self.storage_policy = buffer


class CondensedICaRL(ICaRL):
    """iCaRL with condensed exemplars.

    They are replayed and distilled, and the means of their features classify.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", digits.shape, 10)
    >>> strategy = CondensedICaRL(
    ...     buffer=CondensedBuffer(memory), feature_extractor=torch.nn.Flatten(),
    ...     classifier=torch.nn.Linear(64, 10), train_mb_size=32, train_epochs=1,
    ...     optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
    ... )
    >>> type(strategy).__name__
    'CondensedICaRL'
    """

    def __init__(self, *, buffer: CondensedBuffer, **options: Any) -> None:
        """`options` are those of `ICaRL` without the memory's: `feature_extractor`, ..."""
        super().__init__(
            memory_size=buffer.max_size, buffer_transform=None, fixed_memory=True, **options
        )
        place = next(i for i, plugin in enumerate(self.plugins) if isinstance(plugin, _ICaRLPlugin))
        self.plugins[place] = _CondensedExemplars(buffer)


class _CondensedExemplars(_ICaRLPlugin):
    def __init__(self, buffer: CondensedBuffer) -> None:
        super().__init__(memory_size=buffer.max_size)
        self.storage_policy = buffer

    def construct_exemplar_set(self, strategy: Any) -> None:
        """All rows of the memory, as the stream's evaluation transform would give them."""
        self.storage_policy.update(strategy)
        groups = self.storage_policy.buffer_groups
        loaders = [DataLoader(one.buffer.eval(), batch_size=256) for one in groups.values()]
        stored = [torch.cat([x for x, *_ in loader]) for loader in loaders]
        self.x_memory = [images.to(strategy.device) for images in stored]
        self.y_memory = [[label] * len(group.rows) for label, group in groups.items()]

    def reduce_exemplar_set(self, strategy: Any) -> None:
        """The memory has shrunk by itself."""


class _ErAce(ER_ACE):
    """ER-ACE that also replays a memory of fewer rows than `batch_size_mem`.

    Avalanche's own replays nothing then.
    """

    def _before_training_exp(self, **kwargs: Any) -> None:
        wanted: Any = self.batch_size_mem  # type: ignore[has-type]
        if isinstance(self.storage_policy, CondensedBuffer):
            # ER-ACE is about to do this, and the second time changes nothing.
            self.storage_policy.update(self)
            self.batch_size_mem = min(wanted, len(self.storage_policy.buffer))
        super()._before_training_exp(**kwargs)
        self.batch_size_mem = wanted


class ByProtocol(SupervisedPlugin):
    """Makes a strategy train as `condense.training.train.train` does.

    Each minibatch is augmented, and the learning rate falls to a tenth after half of the passes.
    For ER-ACE the minibatch of the memory is augmented too. MIR draws its own, which is not.

    >>> plugin = ByProtocol(Protocol(epochs=20, augment="dsa-noflip"), seed=0)
    >>> isinstance(plugin, SupervisedPlugin)
    True
    """

    def __init__(self, protocol: Protocol, seed: int) -> None:
        super().__init__()
        self._protocol, self._seed = protocol, seed
        self._augment = make_augment(protocol.augment)
        self._pass = self._step = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """A new experience begins with the full rate and no momentum."""
        self._pass = 0
        self._restart(strategy, self._protocol.lr)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment what the model is about to see."""
        self._step += 1
        strategy.mbatch[0] = self._augment.training(strategy.mbatch[0], self._seed, self._step)
        if getattr(strategy, "replay_loader", None) is not None and hasattr(
            strategy, "mb_buffer_x"
        ):
            strategy.mb_buffer_x = self._augment.training(
                strategy.mb_buffer_x, self._seed, -self._step
            )

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Drop the rate after the pass that the protocol says."""
        self._pass += 1
        if self._pass == self._protocol.drop_after:
            self._restart(strategy, self._protocol.lr * 0.1)

    def _restart(self, strategy: Any, lr: float) -> None:
        strategy.optimizer.state.clear()
        for group in strategy.optimizer.param_groups:
            group["lr"] = lr


def _replay(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> Naive:
    common["plugins"].append(_replay_plugin(memory))
    return Naive(**common)


def _lwf(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> Naive:
    common["plugins"] += [_replay_plugin(memory), LwFPlugin(alpha=1.0, temperature=2.0)]
    return Naive(**common)


def _gdumb(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> Naive:
    plugin = GDumbPlugin(mem_size=memory.max_size)
    plugin.storage_policy = memory
    common["plugins"].insert(0, plugin)
    return Naive(**common)


def _er_ace(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> ER_ACE:
    strategy = _ErAce(
        **common, mem_size=memory.max_size, batch_size_mem=min(batch, memory.max_size)
    )
    strategy.storage_policy = memory
    return strategy


def _mir(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> Naive:
    # MIR replays nothing while the earlier classes have no more rows than it would choose.
    chosen = min(batch, max(1, memory.max_size // 20))
    plugin = MIRPlugin(batch_size_mem=chosen, mem_size=memory.max_size, subsample=2 * batch)
    plugin.storage_policy = memory
    common["plugins"].append(plugin)
    return Naive(**common)


STRATEGIES: dict[str, Callable[[dict[str, Any], Any, int], Any]] = {
    "replay": _replay,
    "lwf": _lwf,
    "gdumb": _gdumb,
    "er-ace": _er_ace,
    "mir": _mir,
}
"""Builders of strategies, by name.

Each is given the options that all strategies share, the memory (any storage policy) and the number
of its rows in a batch."""


def build_strategy(
    name: str,
    model: nn.Module,
    memory: ExemplarsBuffer,
    protocol: Protocol,
    *,
    seed: int,
    device: torch.device,
    evaluator: Any,
) -> Any:
    """The strategy `name` of `STRATEGIES`, which trains `model` by `protocol`.

    Half of each batch is replayed from `memory`.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> from condense.networks.build import build
    >>> network = build("convnet-d2-w8", digits.shape, 10)
    >>> from avalanche.logging import TextLogger
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> evaluator = EvaluationPlugin(loggers=[TextLogger()])
    >>> strategy = build_strategy(
    ...     "er-ace", network, CondensedBuffer(memory), Protocol(epochs=1, batch=16), seed=0,
    ...     device=torch.device("cpu"), evaluator=evaluator,
    ... )
    >>> strategy.train_mb_size, strategy.batch_size_mem
    (16, 16)
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )
    common = {
        "model": model,
        "optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": protocol.batch,
        "train_epochs": protocol.epochs,
        "eval_mb_size": 256,
        "device": device,
        "evaluator": evaluator,
        "plugins": [ByProtocol(protocol, seed)],
    }
    return STRATEGIES[name](common, memory, protocol.batch)


def _replay_plugin(memory: ExemplarsBuffer) -> ReplayPlugin:
    if isinstance(memory, CondensedBuffer):
        return CondensedReplayPlugin(memory)
    return ReplayPlugin(mem_size=memory.max_size, storage_policy=memory)


def _buffer(source: Any, max_size: int | None, options: dict[str, Any]) -> CondensedBuffer:
    if not isinstance(source, CondensedBuffer):
        return CondensedBuffer(source, max_size, **options)
    if max_size is not None or options:
        raise UserError("the memory is already made: set its size and storage where it is")
    return source
