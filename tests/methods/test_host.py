"""What a step copies from the host to the device: on the meta device, which computes nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condense.methods.base import Problem
from condense.methods.dc import DC
from condense.networks import accelerate


class Crossings(TorchDispatchMode):
    """Counts operations on tensors of the host and of the device, which copy between the two.

    Single numbers do not count: they travel with the launch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        met = [one for one in tree_leaves((arguments, named, result)) if isinstance(one, Tensor)]
        self.count += len({one.device.type for one in met if one.ndim}) > 1
        return result


def test_a_copy_is_seen() -> None:
    with Crossings() as crossings:
        torch.zeros(3, device="meta")[torch.arange(2)] + 1
        torch.arange(2).to("meta")
    assert crossings.count == 2


def test_dc_copies_the_order_of_each_pass_and_no_rows(
    problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accelerate._BLOCK_PIXELS, "meta", 1024)
    method = DC(outer_loops=3, inner_loops=2)
    learner = method.learner(replace(problem(method), device=torch.device("meta")))
    with Crossings() as crossings:
        learner.step(0)
    assert crossings.count == 2 * 2  # passes that train the network, between three matchings
