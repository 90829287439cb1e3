"""One Avalanche strategy over one class-incremental stream, with a condensed memory or Avalanche's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from torch import nn

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.networks.accelerate import InBlocks, accelerate, joins_images
from condense.networks.base import Network
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.sets.condensed import CondensedSet
from continual.buffer import CondensedBuffer
from continual.plugins import build_strategy
from continual.stream import class_stream

if TYPE_CHECKING:
    from continual.plan import Plan

_BLOCK = 32
"""Images taken at once on a CPU: small enough to fill up a batch of any size with little waste."""
_METRIC = "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{:03d}"


class RealImages(ClassBalancedBuffer):
    """Avalanche's class-balanced memory, without the warning its plugins cause by calling the old name of its hook."""

    def update(self, strategy: Any, **kwargs: Any) -> None:
        self.post_adapt(strategy, strategy.experience)


def play(
    dataset: Dataset,
    order: Sequence[int],
    memory: CondensedSet | int,
    *,
    plan: "Plan",
    preprocess: Preprocess,
    seed: int,
    device: torch.device,
    board: Path,
) -> Iterator[tuple[tuple[float, ...], tuple[int, ...]]]:
    """After each experience: the accuracies on the classes of each experience so far, and the numbers of test images.

    `memory` is the set of all classes, of which those seen are exposed, or the size of Avalanche's `ClassBalancedBuffer`.
    Curves go to the folder `board`. Avalanche draws from the global generators of PyTorch: they are lent a seed, and
    get their state back.
    """
    stream = class_stream(dataset, plan.steps, order, preprocess=preprocess)
    model = build(plan.network, dataset.shape, len(dataset.classes)).to(device)
    initialise(model, seed, 0)
    protocol = plan.protocol(dataset)
    # Each image brings one of the memory with it, and a backward pass costs two forward ones.
    learner = _quick(
        model, 6 * protocol.epochs * dataset.train.pixels[:, 0].numel(), plan.batch, device
    )
    buffer = (
        RealImages(memory)
        if isinstance(memory, int)
        else CondensedBuffer(memory, storage=plan.storage)
    )
    logger = TensorboardLogger(str(board))
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[logger])
    strategy = build_strategy(
        plan.strategy,
        learner,
        buffer,
        protocol,
        seed=derive(seed, "replay"),
        device=device,
        evaluator=evaluator,
    )
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(derive(seed, "avalanche"))
    try:
        for step, experience in enumerate(stream.train_stream):
            strategy.train(experience)
            seen = list(stream.test_stream[: step + 1])
            told = strategy.eval(seen)
            accuracies = tuple(float(told[_METRIC.format(j)]) for j in range(step + 1))
            yield accuracies, tuple(len(one.dataset) for one in seen)
    finally:
        torch.default_generator.set_state(state)
        logger.writer.close()


def _quick(model: Network, pixels: float, batch: int, device: torch.device) -> nn.Module:
    """`model` made faster where that pays. Avalanche's batches have many sizes: the last of a pass, the memory's share."""
    if device.type != "cpu" or joins_images(model):
        return model
    fast = accelerate(model, pixels, device)
    return model if fast is model else InBlocks(fast, min(batch, _BLOCK))
