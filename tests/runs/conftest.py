"""What the tests of runs share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from condense.networks import graph
from condense.runs.engine import Engine


class Replays:
    """Makes engines that work as on a GPU: numbers are tensors, and results have fixed places."""

    def __init__(self) -> None:
        self.captured = 0

    def engine(self, make: Callable[[], Engine]) -> Engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("condense.runs.engine.has_graphs", lambda device: True)
            return make()

    def capture(
        self, work: Callable[[], Any], device: torch.device
    ) -> tuple[Callable[[], None], Any]:
        """In place of `graph.capture`, warm-ups included."""
        self.captured += 1
        for _ in range(2):
            work()
        result = work()
        places, _ = tree_flatten(result)

        def replay() -> None:
            for place, value in zip(places, tree_flatten(work())[0], strict=True):
                if place is not None:
                    place.copy_(value)

        return replay, result


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    """A stand-in for CUDA graphs."""
    stand_in = Replays()
    monkeypatch.setattr(graph, "capture", stand_in.capture)
    return stand_in
