"""Avalanche's own tests of memories and of replay, with ours in place of theirs.

Its package brings them. What is exchanged are the memories, the stream (theirs has no images) and
the size of its networks; the assertions are theirs. Their memories are full from the first
experience on, so ours is one that real images fill. What does not apply: the choice of exemplars
by features and groups other than classes (`SelectionStrategyTest`, `ParametricBufferTest`), which a
condensed memory does not have; a memory of fewer images than classes (`test_dataload_reinit`),
which ours refuses; and samples that are dictionaries.
"""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import avalanche
import pytest
from avalanche.benchmarks import nc_benchmark
from avalanche.models import SimpleMLP
from torch.utils.data import TensorDataset

from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from continual import CondensedBuffer, CondensedReplayPlugin
from continual.stream import Prepare

THEIRS = Path(avalanche.__file__).parents[1] / "tests"

pytestmark = [
    pytest.mark.skipif(not THEIRS.exists(), reason="this Avalanche does not bring its tests"),
    # As in Avalanche's own streams and networks.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def place(digits) -> SimpleNamespace:
    """Digits, and four real ones of each class as a memory."""
    preprocess = make_preprocess("standard", digits)
    memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    return SimpleNamespace(digits=digits, preprocess=preprocess, memory=memory)


def stream(place: SimpleNamespace, use_task_labels: bool = True):
    """Five experiences of two digits, in place of Avalanche's vectors."""
    parts = [
        TensorDataset(one.pixels, one.labels) for one in (place.digits.train, place.digits.test)
    ]
    transforms = dict.fromkeys(("train_transform", "eval_transform"), Prepare(place.preprocess))
    return nc_benchmark(*parts, 5, task_labels=use_task_labels, seed=1, **transforms)


def their(file: str, place: SimpleNamespace) -> ModuleType:
    """One of their files, whose memories are ours."""
    spec = importlib.util.spec_from_file_location(Path(file).stem + "_of_avalanche", THEIRS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def ours(max_size: int, adaptive_size: bool = True) -> CondensedBuffer:
        return CondensedBuffer(place.memory, max_size, fill="real")

    module.ClassBalancedBuffer = module.ExperienceBalancedBuffer = ours
    module.ReservoirSamplingBuffer = ours
    module.ReplayPlugin = lambda mem_size, storage_policy=None: CondensedReplayPlugin(
        ours(mem_size) if storage_policy is None else storage_policy
    )
    module.get_fast_benchmark = partial(stream, place)
    module.SimpleMLP = lambda num_classes=10, input_size=64, hidden_size=10: SimpleMLP(
        num_classes, input_size=64, hidden_size=hidden_size
    )
    return module


@pytest.mark.parametrize(
    "name",
    [
        "test_replay_balanced_memory",
        "test_balancing",
        "test_replay_flattening",
        "test_class_balanced_replay_flattening",
    ],
)
def test_their_tests_of_replay(place, name):
    getattr(their("training/test_replay.py", place).ReplayTest(), name)()


def test_their_test_of_balanced_batches(place):
    theirs = their("benchmarks/utils/test_dataloaders.py", place)
    theirs.DataLoaderTests().test_dataload_batch_balancing()


def test_their_update_by_the_name_that_plugins_call(place):
    """`ParametricBufferTest` updates memories so; ours then holds the classes that came."""
    buffer = CondensedBuffer(place.memory)
    for number, experience in enumerate(stream(place).train_stream):
        buffer.update(MagicMock(experience=experience))
        assert len(buffer.buffer_groups) == 2 * (number + 1)
        assert {len(group.buffer) for group in buffer.buffer_groups.values()} == {4}
