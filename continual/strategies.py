"""Strategies of Avalanche that need more than another storage policy: ER-ACE, DER and iCaRL.

Each takes the memory as `buffer`, which may be a `CondensedBuffer` or one of Avalanche's own.
"""

from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.training.storage_policy import BalancedExemplarsBuffer, ExemplarsBuffer
from avalanche.training.supervised import DER, ER_ACE, ICaRL
from avalanche.training.supervised.icarl import _ICaRLPlugin
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.utils import cycle
from torch.utils.data import DataLoader

from condense.errors import UserError


class CondensedERACE(ER_ACE):
    """ER-ACE, which also replays a memory of fewer rows than `batch_size_mem`.

    Avalanche's own replays nothing then.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> from condense.networks.build import build
    >>> from continual import CondensedBuffer
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> network = build("convnet-d2-w8", digits.shape, 10)
    >>> strategy = CondensedERACE(
    ...     buffer=CondensedBuffer(memory), model=network, train_mb_size=32,
    ...     optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
    ... )
    >>> strategy.storage_policy.max_size
    40
    """

    def __init__(self, *, buffer: ExemplarsBuffer, **options: Any) -> None:
        """`options` are those of `ER_ACE` without `mem_size`: `model`, `optimizer`, ..."""
        super().__init__(mem_size=_memory(buffer).max_size, **options)
        self.storage_policy = buffer

    def _before_training_exp(self, **kwargs: Any) -> None:
        self.storage_policy.update(self, **kwargs)
        rows = self.storage_policy.buffer
        if len(rows) and self.experience.current_experience > 0:
            self.replay_loader = _endless(rows, self.batch_size_mem)
        # That of ER_ACE would do the same, for large memories alone.
        SupervisedTemplate._before_training_exp(self, **kwargs)


class CondensedDER(DER):
    """DER and DER++, which also replay a memory of fewer rows than `batch_size_mem`.

    Avalanche's own replay nothing then. Plugins see the batch with the rows of the memory, so that
    one that augments augments both. Logits of units that the model did not have when they were
    stored are left out of the loss; the model may have several heads.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> from condense.networks.build import build
    >>> from continual import CondensedBufferWithLogits
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> network = build("convnet-d2-w8", digits.shape, 10)
    >>> strategy = CondensedDER(
    ...     buffer=CondensedBufferWithLogits(memory), model=network, train_mb_size=32,
    ...     optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
    ... )
    >>> strategy.storage_policy.max_size
    40
    """

    def __init__(self, *, buffer: ExemplarsBuffer, **options: Any) -> None:
        """`options` are those of `DER` without `mem_size`: `model`, `optimizer`, `beta`, ...

        The rows of `buffer` carry logits: it is a `CondensedBufferWithLogits`, or Avalanche's
        `ClassBalancedBufferWithLogits`.
        """
        super().__init__(mem_size=_memory(buffer).max_size, **options)
        self.storage_policy: Any = buffer
        self._wanted: int = self.batch_size_mem

    def _before_training_exp(self, **kwargs: Any) -> None:
        rows = self.storage_policy.buffer
        self.batch_size_mem = min(self._wanted, len(rows))
        self.replay_loader = _endless(rows, self.batch_size_mem) if len(rows) else None
        # That of DER would do the same, for large memories alone.
        SupervisedTemplate._before_training_exp(self, **kwargs)

    def _before_forward(self, **kwargs: Any) -> None:
        if self.replay_loader is not None:
            *rows, logits = (part.to(self.device) for part in next(self.replay_loader))
            for place, part in enumerate(rows):
                self.mbatch[place] = torch.cat((part, self.mbatch[place]))
            self.batch_logits = logits
        # That of DER would add the rows after the plugins.
        SupervisedTemplate._before_forward(self, **kwargs)

    def _after_forward(self, **kwargs: Any) -> None:
        super()._after_forward(**kwargs)
        if self.replay_loader is not None:
            outputs = self.mb_output[: self.batch_size_mem].detach()
            width = self.batch_logits.shape[1]
            stored = outputs.clone()
            stored[:, :width] = self.batch_logits
            self.batch_logits = torch.where(stored.isnan(), outputs, stored)


class CondensedICaRL(ICaRL):
    """iCaRL with condensed exemplars.

    They are replayed and distilled, and the means of their features classify.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> from continual import CondensedBuffer
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

    def __init__(self, *, buffer: BalancedExemplarsBuffer[Any], **options: Any) -> None:
        """`options` are those of `ICaRL` without the memory's: `feature_extractor`, ..."""
        super().__init__(
            memory_size=_memory(buffer).max_size,
            buffer_transform=None,
            fixed_memory=True,
            **options,
        )
        place = next(i for i, plugin in enumerate(self.plugins) if isinstance(plugin, _ICaRLPlugin))
        self.plugins[place] = _CondensedExemplars(buffer)


class _CondensedExemplars(_ICaRLPlugin):
    """iCaRL's plugin, with the rows of a storage policy as exemplars."""

    def __init__(self, buffer: BalancedExemplarsBuffer[Any]) -> None:
        super().__init__(memory_size=buffer.max_size)
        self.storage_policy = buffer
        self.class_means: dict[int, torch.Tensor] = {}

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Train on the memory too, under its own transforms."""
        rows = self.storage_policy.buffer
        if len(rows):
            strategy.adapted_dataset = concat_datasets((strategy.adapted_dataset, rows.train()))

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Nothing: the memory knows its classes."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Update the memory, and the means of the features of its rows."""
        strategy.model.eval()
        self.storage_policy.update(strategy, **kwargs)
        groups = self.storage_policy.buffer_groups
        loaders = [DataLoader(one.buffer.eval(), batch_size=256) for one in groups.values()]
        self.x_memory = [torch.cat([x for x, *_ in loader]) for loader in loaders]
        self.y_memory = [
            [label] * len(images) for label, images in zip(groups, self.x_memory, strict=True)
        ]
        # Otherwise the plugin asks the benchmark for all classes, which not every benchmark knows.
        if not self.class_means:
            unseen = torch.zeros(self.embedding_size, device=strategy.device)
            self.class_means = dict.fromkeys(range(self.output_size), unseen)
        self.compute_class_means(strategy)
        self.x_memory, self.y_memory = [], []
        strategy.model.train()


def _memory(buffer: Any) -> Any:
    """The memory itself. Raises `UserError` for a set or a path in place of one."""
    if not isinstance(buffer, ExemplarsBuffer):
        raise UserError(
            f"`buffer` is a {type(buffer).__name__} and no memory: give `CondensedBuffer(...)` of "
            "a set or its path, and to `CondensedDER` a `CondensedBufferWithLogits(...)`"
        )
    return buffer


def _endless(rows: Any, batch: int) -> Any:
    """Batches of `batch` rows, or of all if there are fewer, again and again."""
    size = min(batch, len(rows))
    return cycle(DataLoader(rows, batch_size=size, shuffle=True, drop_last=True))
