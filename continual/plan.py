"""What a continual run measures."""

import dataclasses
from dataclasses import dataclass

from condense.data.images import Dataset
from condense.errors import UserError, unknown
from condense.training import train as training
from condense.training.train import Protocol

MODES = ("scratch", "replay")


CLASS_BALANCED = "class-balanced"
"""The method that is Avalanche's own `ClassBalancedBuffer` of real images, of the others' bytes; in mode `replay`."""


_OURS = ("random", "herding", "datadam:loss_scale=100")


METHODS = {"scratch": _OURS, "replay": (CLASS_BALANCED, *_OURS)}
"""What is compared where nothing else is asked for, by mode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run measures. Raises `UserError` for what cannot be."""

    steps: int
    """Experiences; they divide the classes."""
    methods: tuple[str, ...] = _OURS
    """Selections, recipes, matching methods (`datadam:loss_scale=100,lr=1`), files of sets; in replay also `class-balanced`."""
    ipc: int = 20
    """Images a class."""
    orders: int = 5
    """Class orders: NumPy's seeds 0, 1, ..."""
    repeats: int = 3
    """Networks of each order."""
    mode: str = "scratch"
    """`scratch` (the paper's) or `replay` (an Avalanche strategy)."""
    strategy: str = "replay"
    """In mode `replay`: `replay`, `lwf`, `gdumb`, `er-ace` or `mir`."""
    network: str = "convnet"
    """Network that learns."""
    epochs: int | None = None
    """Passes at each step; None is 1,000 from scratch and 20 in replay."""
    batch: int = 256
    """Images in a minibatch of the network that learns."""
    condense_steps: int | None = None
    """Steps of every condensation; None is each recipe's."""
    classes: int | None = None
    """Take so many of the dataset's classes, drawn once; None is all."""
    storage: str = "uint8"
    """How memories are kept: `uint8` pixels or `float32` images."""
    seed: int = 0
    """Every random number follows from it."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("ipc", "orders", "repeats", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` is {getattr(self, name)}: it must be 1 or more")
        if self.mode not in MODES:
            raise unknown("mode", self.mode, MODES)
        if self.storage not in ("uint8", "float32"):
            raise unknown("storage of a memory", self.storage, ("uint8", "float32"))
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise UserError("give one method or more, each once")
        if CLASS_BALANCED in self.methods and self.mode != "replay":
            raise UserError(
                f"`{CLASS_BALANCED}` is filled by an Avalanche strategy: use it with --mode replay"
            )

    def protocol(self, dataset: Dataset) -> Protocol:
        """How every network is trained."""
        epochs = (
            self.epochs if self.epochs is not None else {"scratch": 1000, "replay": 20}[self.mode]
        )
        return dataclasses.replace(
            training.protocol_for("dm", dataset.name), epochs=epochs, batch=self.batch
        )
