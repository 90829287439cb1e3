"""The name of a published set stands wherever a set's path may."""

import gc
import pickle

import pytest

from condense import CondensedSet, load_dataset
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from condense.sets import published
from condense.settings import plain
from condense.training.protocol import Protocol
from condense.writing import write_json
from continual.kept import KeptSet
from continual.memories import parse
from nas.proxies import make_proxies

NAME = "digits-ipc2-random"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def shipped(
    digits: Dataset, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The fingerprint of a set that is published under `NAME`."""
    folder = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(published, "FOLDER", folder)
    preprocess = make_preprocess("standard", digits)
    condensed = select("random", digits, 2, preprocess=preprocess, seed=0)
    condensed.save(folder / f"{NAME}.safetensors")
    card = published.Card(
        dataset="digits", ipc=2, recipe="random", seed=0, steps=0, network="mlp", protocol="dm",
        accuracies=(0.5, 0.6), command="...", licence="...", measured="...",
    )  # fmt: skip
    write_json(folder / f"{NAME}.json", plain(card))
    return condensed.fingerprint


def test_it_is_a_memory(digits: Dataset, shipped: str) -> None:
    found = parse(NAME, digits, 2, None)
    assert isinstance(found, CondensedSet)
    assert found.fingerprint == shipped


def test_it_is_a_proxy(digits: Dataset, shipped: str) -> None:
    preprocess = make_preprocess("standard", digits)
    (proxy,) = make_proxies([NAME], digits, digits, preprocess, Protocol()).values()
    assert len(proxy) == 20


def test_a_checkpoint_of_its_memory_is_read_again(shipped: str) -> None:
    text = pickle.dumps(KeptSet(NAME))
    gc.collect()  # the set itself is gone
    assert pickle.loads(text).set.fingerprint == shipped
