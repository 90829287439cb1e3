"""The tasks of a continual run: each is done in one go, and its result is kept as one trial."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from condense.study.trials import Key
from continual.results import Row


@dataclass(frozen=True, slots=True)
class ScratchTask:
    """One network that is trained from scratch on the memory after one step.

    >>> task = ScratchTask("random", order=0, repeat=1, step=1)
    >>> print(task)
    a network on `random`, order 0, repeat 1, step 2
    >>> [row] = task.rows({"accuracies": [0.75, 0.5], "images": [10, 30]})
    >>> row.seen
    0.5625
    """

    method: str
    order: int
    """The number of the class order, from 0."""
    repeat: int
    """The number of the network among those that share its order and step, from 0."""
    step: int
    """From 0."""

    @property
    def key(self) -> Key:
        """What the result is stored under."""
        return Key.of("scratch", **dataclasses.asdict(self))

    def rows(self, result: dict[str, Any]) -> list[Row]:
        """The one row that the result stands for."""
        return [Row(**dataclasses.asdict(self), **_plain(result))]

    def __str__(self) -> str:
        """The task in a few words, for messages."""
        step = self.step + 1
        return (
            f"a network on `{self.method}`, order {self.order}, repeat {self.repeat}, step {step}"
        )


@dataclass(frozen=True, slots=True)
class StreamTask:
    """One run of an Avalanche strategy through a whole stream, since it can only start at step 0.

    >>> task = StreamTask("class-balanced", order=0, repeat=1)
    >>> print(task)
    a stream with `class-balanced`, order 0, repeat 1
    >>> rows = task.rows({"accuracies": [[0.9], [0.75, 0.5]], "images": [[10], [10, 30]]})
    >>> [row.seen for row in rows]
    [0.9, 0.5625]
    """

    method: str
    order: int
    """The number of the class order, from 0."""
    repeat: int
    """The number of the stream among those that share its order, from 0."""

    @property
    def key(self) -> Key:
        """What the result is stored under."""
        return Key.of("replay", **dataclasses.asdict(self))

    def rows(self, result: dict[str, Any]) -> list[Row]:
        """The rows of all steps."""
        steps: list[dict[str, Any]] = [{} for _ in result["images"]]
        for name, values in result.items():
            for step, value in zip(steps, values, strict=False):  # the last step has no next one
                step[name] = value
        return [
            Row(**dataclasses.asdict(self), step=number, **_plain(step))
            for number, step in enumerate(steps)
        ]

    def __str__(self) -> str:
        """The task in a few words, for messages."""
        return f"a stream with `{self.method}`, order {self.order}, repeat {self.repeat}"


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row; lists become tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in result.items()
    }
