"""Avalanche plugins with a condensed memory, and the strategies of mode `replay`.

`STRATEGIES` builds each of them. Where Avalanche makes a storage policy of its own, ours replaces
it after construction. MIR, SCR and GDumb need no more than that; for the others see
`continual.strategies`.
"""

from collections.abc import Callable
from typing import Any

import torch
from avalanche.models import SCRModel
from avalanche.training.plugins import (
    GDumbPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.storage_policy import ExemplarsBuffer
from avalanche.training.supervised import SCR, Cumulative, Naive
from torch import Tensor, nn

from condense.data.augment import make_augment
from condense.errors import UserError
from condense.networks.base import Network
from condense.networks.build import initialise
from condense.randomness import derive
from condense.training.protocol import Protocol
from continual.buffer import CondensedBuffer
from continual.strategies import CondensedDER, CondensedERACE, CondensedICaRL


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
        self._protocol, self.seed = protocol, seed
        self._augment = make_augment(protocol.augment)
        self._pass = self._step = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """A new experience begins with the full rate and no momentum."""
        self._pass = 0
        self._restart(strategy, self._protocol.lr)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment what the model is about to see."""
        self._step += 1
        strategy.mbatch[0] = self._augment.training(strategy.mbatch[0], self.seed, self._step)
        if getattr(strategy, "replay_loader", None) is not None and hasattr(
            strategy, "mb_buffer_x"
        ):
            strategy.mb_buffer_x = self._augment.training(
                strategy.mb_buffer_x, self.seed, -self._step
            )

    def another_view(self, images: Tensor) -> Tensor:
        """The images of a step, augmented once more and otherwise."""
        return self._augment.training(images, derive(self.seed, "view"), self._step)

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


def _er_ace(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> CondensedERACE:
    return CondensedERACE(buffer=memory, batch_size_mem=min(batch, memory.max_size), **common)


def _der(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> CondensedDER:
    size = min(batch, memory.max_size)
    return CondensedDER(buffer=memory, batch_size_mem=size, alpha=0.1, beta=0.5, **common)


def _mir(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> Naive:
    # MIR replays nothing while the earlier classes have no more rows than it would choose.
    chosen = min(batch, max(1, memory.max_size // 20))
    plugin = MIRPlugin(batch_size_mem=chosen, mem_size=memory.max_size, subsample=2 * batch)
    plugin.storage_policy = memory
    common["plugins"].append(plugin)
    return Naive(**common)


def _icarl(common: dict[str, Any], memory: Any, batch: int) -> CondensedICaRL:
    network = common.pop("model")
    del common["criterion"]  # iCaRL has its own
    return CondensedICaRL(
        buffer=memory,
        feature_extractor=_Embedding(network),
        classifier=network.classifier,
        **common,
    )


def _scr(common: dict[str, Any], memory: ExemplarsBuffer, batch: int) -> SCR:
    embedding, protocol = _Embedding(common.pop("model")), common["plugins"][0]
    width = embedding.network.embedding_size
    projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
    initialise(projection, protocol.seed, 0)
    model = SCRModel(embedding, projection).to(common["device"])
    common["optimizer"].add_param_group({"params": list(projection.parameters())})
    del common["criterion"]  # SCR has its own
    size = min(batch, memory.max_size)
    strategy = SCR(
        model=model,
        augmentations=protocol.another_view,
        mem_size=memory.max_size,
        batch_size_mem=size,
        **common,
    )
    strategy.replay_plugin.storage_policy = memory
    return strategy


def _finetune(common: dict[str, Any], memory: None, batch: int) -> Naive:
    return Naive(**common)


def _joint(common: dict[str, Any], memory: None, batch: int) -> Cumulative:
    return Cumulative(**common)


class _Embedding(nn.Module):
    """The part of a network before its classifier."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings, float32 [N, D]."""
        return self.network.embed(images)


STRATEGIES: dict[str, Callable[[dict[str, Any], Any, int], Any]] = {
    "replay": _replay,
    "lwf": _lwf,
    "gdumb": _gdumb,
    "er-ace": _er_ace,
    "der++": _der,
    "mir": _mir,
    "icarl": _icarl,
    "scr": _scr,
}
"""Builders of strategies, by name.

Each is given the options that all strategies share, the memory (any storage policy) and the number
of its rows in a batch."""

BOUNDS: dict[str, Callable[[dict[str, Any], Any, int], Any]] = {
    "finetune": _finetune,
    "joint": _joint,
}
"""Builders of what has no memory: the present images alone, and all images so far."""

WITH_LOGITS = ("der++",)
"""Strategies whose memory carries logits."""

EMBEDDING = ("icarl", "scr")
"""Strategies that take a `Network` apart: its embedding and its classifier."""


def build_strategy(
    name: str,
    model: nn.Module,
    memory: ExemplarsBuffer | None,
    protocol: Protocol,
    *,
    seed: int,
    device: torch.device,
    evaluator: Any,
) -> Any:
    """The strategy `name` of `STRATEGIES` or `BOUNDS`, which trains `model` by `protocol`.

    Half of each batch is replayed from `memory`, which the bounds do without.

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
    return {**STRATEGIES, **BOUNDS}[name](common, memory, protocol.batch)


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
