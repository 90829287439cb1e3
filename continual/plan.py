"""What a continual run measures."""

import dataclasses
from dataclasses import dataclass, field
from typing import Self

import torch

from condense.data.images import Dataset
from condense.errors import UserError, unknown
from condense.sets.condensed import CondensedSet
from condense.settings import at_least, require
from condense.study.study import MOST_TASKS
from condense.study.trials import Key
from condense.training.protocol import Protocol, protocol_for
from continual.tasks import ScratchTask, StreamTask

MODES = ("scratch", "replay")

BYTES = {"uint8": 1, "float32": 4}
"""Bytes of one value of an image, by storage."""

CLASS_BALANCED = "class-balanced"
"""The method that is Avalanche's own `ClassBalancedBuffer`, for mode `replay`.

It holds real images, of as many bytes as the condensed memories."""

BOUNDS = ("finetune", "joint")
"""Methods of mode `replay` without a memory: each experience's images alone, and all so far."""

NOT_CONDENSED = (CLASS_BALANCED, *BOUNDS)
"""Methods for which nothing is condensed."""

FILLS = ("real", "hard")
"""Which real images take the places that condensed ones leave free: any, or the hardest."""

_OURS = ("random", "herding", "datadam:loss_scale=100")

METHODS = {"scratch": _OURS, "replay": (CLASS_BALANCED, *_OURS)}
"""The methods that the command compares by default, by mode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run measures. Raises `UserError` for values that are not allowed.

    >>> plan = Plan(steps=5, methods=("random", "herding"), orders=2, repeats=3)
    >>> plan.networks
    60
    >>> Plan(steps=5, methods=("class-balanced",))
    Traceback (most recent call last):
    condense.errors.UserError: `class-balanced` is filled by an Avalanche strategy: use it with ...
    """

    steps: int
    """Number of experiences. Each brings the same number of new classes, except for `base`."""
    methods: tuple[str, ...] = _OURS
    """How the memories are made: selections, recipes, matching methods, files of condensed sets.

    Settings follow a colon, as in `datadam:loss_scale=100,lr=1` (see `continual.memories.parse`).
    Mode `replay` also has `class-balanced`, the bounds `finetune` and `joint`, and every method
    followed by `+real` or `+hard`, whose memory real images fill until condensed ones arrive."""
    base: tuple[int, ...] = ()
    """Classes of the first experience, if it differs; may be repeated for the next ones. The others
    divide the rest."""
    ipc: int = 20
    """Images per class."""
    orders: int = 5
    """Number of class orders, drawn with NumPy's seeds 0, 1, ..."""
    repeats: int = 3
    """Networks trained for each order."""
    mode: str = "scratch"
    """`scratch` (new networks at each step, as the paper's) or `replay` (an Avalanche strategy)."""
    strategy: str = "replay"
    """In mode `replay`: `replay`, `lwf`, `gdumb`, `er-ace`, `der++`, `mir`, `icarl` or `scr`."""
    network: str = "convnet"
    """Network that learns."""
    epochs: int | None = None
    """Passes at each step; 1,000 from scratch and 20 in replay unless given."""
    batch: int = 256
    """Images in a minibatch of the network that learns."""
    condense_steps: int | None = None
    """Steps of every condensation; those of each recipe unless given."""
    classes: int | None = None
    """Take so many of the dataset's classes, drawn once: a smaller problem; all unless given."""
    storage: str = "uint8"
    """How memories are kept: as `uint8` pixels or as `float32` images."""
    seed: int = 0
    """Every random number follows from it."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        at_least(0, self, "epochs", "condense_steps")
        at_least(1, self, "steps", "ipc", "orders", "repeats", "batch", "classes")
        fewer = f"fewer: this is {self.networks:,} trainings"
        require("orders", self.orders, self.networks <= MOST_TASKS, fewer)
        if self.mode not in MODES:
            raise unknown("mode", self.mode, MODES)
        used = self.mode == "replay" or self.strategy == "replay"
        require("strategy", self.strategy, used, "left out, but for --mode replay")
        if self.storage not in BYTES:
            raise unknown("storage of a memory", self.storage, BYTES)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise UserError("give one method or more, each once")
        if self.mode != "replay":
            for method in self.methods:
                if method in NOT_CONDENSED or filled(method)[1]:
                    raise UserError(
                        f"`{method}` is filled by an Avalanche strategy: use it with --mode replay"
                    )

    @property
    def networks(self) -> int:
        """How many networks are tested, one after each step of a stream counted as one each."""
        return len(self.methods) * self.orders * self.repeats * self.steps

    def protocol(self, dataset: Dataset) -> Protocol:
        """How every network is trained."""
        default = {"scratch": 1000, "replay": 20}[self.mode]
        epochs = default if self.epochs is None else self.epochs
        protocol = protocol_for("dm", dataset.name)
        return dataclasses.replace(protocol, epochs=epochs, batch=self.batch)

    def tasks(self, method: str) -> list[ScratchTask] | list[StreamTask]:
        """What there is to do with one method, in this order.

        >>> plan = Plan(steps=2, methods=("random",), orders=2, repeats=1)
        >>> [(task.step, task.order) for task in plan.tasks("random")]
        [(0, 0), (0, 1), (1, 0), (1, 1)]
        """
        streams = [
            StreamTask(method, order, repeat)
            for order in range(self.orders)
            for repeat in range(self.repeats)
        ]
        if self.mode == "replay":
            return streams
        return [
            ScratchTask(method, stream.order, stream.repeat, step)
            for step in range(self.steps)
            for stream in streams
        ]


def filled(method: str) -> tuple[str, str | None]:
    """What makes the condensed images of a method, and what fills the rest of its memory.

    >>> filled("random+hard"), filled("random")
    (('random', 'hard'), ('random', None))
    """
    for fill in FILLS:
        if method.endswith(f"+{fill}"):
            return method.removesuffix(f"+{fill}"), fill
    return method, None


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryBench:
    """What the tasks of one method share (see `condense.study.workers.Bench`), whatever they do.

    >>> bench = MemoryBench(plan=Plan(steps=2), groups=[], memories=[])
    >>> bench.name(StreamTask("random", order=0, repeat=1))
    'a stream with `random`, order 0, repeat 1'
    """

    plan: Plan
    groups: list[tuple[tuple[int, ...], ...]]
    """The classes of each step, by order and step."""
    memories: list[list[CondensedSet]]
    """What each step adds to the memory, by order and step; empty for Avalanche's own memory."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device) -> Self:
        """The same bench for `device`. Tensors are moved when they are first used."""
        return dataclasses.replace(self, device=device)

    def key(self, task: ScratchTask | StreamTask) -> Key:
        """What the result of a task is stored under."""
        return task.key

    def name(self, task: ScratchTask | StreamTask) -> str:
        """A task in a few words, for messages."""
        return str(task)
