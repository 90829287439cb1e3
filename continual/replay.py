"""Mode `replay`: an Avalanche strategy trains on a stream, with a condensed memory or its own."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer
from avalanche.training.supervised.der import ClassBalancedBufferWithLogits
from torch import Tensor, nn

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.networks.accelerate import InBlocks, accelerate, joins_images
from condense.networks.base import Network
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.sets.condensed import CondensedSet
from condense.training.train import accuracy
from condense.writing import make_folder
from continual.buffer import CondensedBuffer, CondensedBufferWithLogits
from continual.memories import union
from continual.plan import BOUNDS, MemoryBench, filled
from continual.plugins import EMBEDDING, WITH_LOGITS, build_strategy
from continual.stream import class_stream
from continual.tasks import StreamTask

_BLOCK = 32
"""Images processed at once on a CPU. Few enough that padding a batch of any size costs little."""
_METRIC = "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{:03d}"


class RealImages(ClassBalancedBuffer):
    """Avalanche's class-balanced memory of real images.

    Avalanche's plugins call the memory's hook by its deprecated name, which here does not warn.

    >>> RealImages(40).max_size
    40
    """

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Add images of the classes of the strategy's experience."""
        self.post_adapt(strategy, strategy.experience)


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamBench(MemoryBench):
    """Everything that the streams of one method share (see `condense.study.workers.Bench`).

    >>> from condense import load_dataset
    >>> from continual.plan import Plan
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> plan = Plan(steps=5, methods=("class-balanced",), mode="replay")
    >>> bench = StreamBench(
    ...     plan=plan, dataset=digits, groups=[], memories=[], real_images=40,
    ...     preprocess=preprocess, boards=Path("tensorboard"),
    ... )
    >>> bench.to(torch.device("cpu")).real_images
    40
    """

    dataset: Dataset
    """It stays where it is, as Avalanche expects it."""
    real_images: int
    """The size of `RealImages`."""
    preprocess: Preprocess
    """The preprocessing of the stream where there are no memories, which have their own."""
    boards: Path
    """The folder of the curves for TensorBoard. On a cluster it is a folder of each machine."""

    def run(self, task: StreamTask) -> dict[str, Any]:
        """Train on each experience in turn, and test on the classes seen after each.

        The result has, by step, the `accuracies` in [0, 1] on the classes of each step so far, and
        the numbers of test `images` behind them; by step but the last also `ahead`, as
        `continual.results.Row` has it. Curves for TensorBoard are written meanwhile; those of an
        attempt that was cut off are deleted.
        """
        seed = derive(self.plan.seed, "continual", task.order, task.repeat)
        memory = union(self.memories[task.order]) if self.memories else None
        order = [c for group in self.groups[task.order] for c in group]
        preprocess = memory.preprocess if memory else self.preprocess
        plan = self.plan
        stream = class_stream(
            self.dataset, plan.steps, order, preprocess=preprocess, base=plan.base
        )
        board = self.boards / f"{task.method.replace('/', '_')}-{task.order}-{task.repeat}"
        shutil.rmtree(board, ignore_errors=True)
        make_folder(board)
        logger = TensorboardLogger(str(board))
        model = self._network(seed)
        following = self._following(task.order, preprocess)
        untrained = [accuracy(model, *images) for images in following]
        buffer = self._buffer(task.method, memory)
        strategy = self._strategy(task.method, model, buffer, seed, logger)
        result: dict[str, Any] = {"accuracies": [], "images": [], "ahead": []}
        try:
            with _global_generator(derive(seed, "avalanche")):
                for step, experience in enumerate(stream.train_stream):
                    strategy.train(experience)
                    seen = list(stream.test_stream[: step + 1])
                    metrics = strategy.eval(seen)
                    names = [_METRIC.format(number) for number in range(step + 1)]
                    result["accuracies"].append([float(metrics[name]) for name in names])
                    result["images"].append([len(one.dataset) for one in seen])
                    if step < len(following):
                        ahead = accuracy(strategy.model, *following[step])
                        result["ahead"].append(ahead - untrained[step])
        finally:
            logger.writer.close()
        return result

    def _buffer(self, method: str, memory: CondensedSet | None) -> ExemplarsBuffer | None:
        """The memory of a method; None for the bounds."""
        logits = self.plan.strategy in WITH_LOGITS
        if method in BOUNDS:
            return None
        if memory is None:
            real = ClassBalancedBufferWithLogits if logits else RealImages
            return real(self.real_images)
        kind = CondensedBufferWithLogits if logits else CondensedBuffer
        return kind(memory, storage=self.plan.storage, fill=filled(method)[1])

    def _following(self, order: int, preprocess: Preprocess) -> list[tuple[Tensor, Tensor]]:
        """The preprocessed test images of each step but the first, and their labels."""
        test = self.dataset.test
        masks = [torch.isin(test.labels, torch.tensor(group)) for group in self.groups[order]]
        parts = [test.subset(mask) for mask in masks[1:]]
        return [(preprocess.apply(part.pixels), part.labels) for part in parts]

    def _network(self, seed: int) -> Network:
        """A new network that learns."""
        model = build(self.plan.network, self.dataset.shape, len(self.dataset.classes))
        model = model.to(self.device)
        initialise(model, seed, 0)
        return model

    def _strategy(
        self,
        method: str,
        model: Network,
        buffer: ExemplarsBuffer | None,
        seed: int,
        logger: TensorboardLogger,
    ) -> Any:
        """The strategy of the plan or a bound, which trains `model` and replays `buffer`."""
        name = method if method in BOUNDS else self.plan.strategy
        protocol = self.plan.protocol(self.dataset)
        # Each image brings one of the memory with it, and a backward pass costs two forward ones.
        pixels = 6 * protocol.epochs * self.dataset.train.pixels[:, 0].numel()
        metrics = accuracy_metrics(experience=True, stream=True)
        whole = name not in EMBEDDING
        return build_strategy(
            name,
            quick(model, pixels, self.plan.batch, self.device) if whole else model,
            buffer,
            protocol,
            seed=derive(seed, "replay"),
            device=self.device,
            evaluator=EvaluationPlugin(metrics, loggers=[logger]),
        )


@contextlib.contextmanager
def _global_generator(seed: int) -> Iterator[None]:
    """PyTorch's global CPU generator, which Avalanche draws from, starts at `seed` while inside.

    It has its old state again afterwards.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def quick(model: Network, pixels: float, batch: int, device: torch.device) -> nn.Module:
    """`model` accelerated if that pays, for batches of many sizes.

    `pixels` is the work ahead: those of all images of all passes, forward and backward. Avalanche's
    batches differ in size: the last of a pass is smaller, and so is the share of a memory that is
    still small.

    >>> from condense.networks.build import build
    >>> network = build("convnet-d1-w4", (1, 8, 8), 10)
    >>> quick(network, 1e3, 32, torch.device("cpu")) is network  # too little to do
    True
    """
    if device.type != "cpu" or joins_images(model):
        return model
    fast = accelerate(model, pixels, device)
    return model if fast is model else InBlocks(fast, min(batch, _BLOCK))
