"""Networks of a user's own: ranked, gone on with, and refused where they do not fit."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import models

import nas
from condense import Dataset, Images, UserError, load_dataset
from condense.data.preprocess import Standardize
from condense.sets.condensed import CondensedSet
from condense.study.workers import Workers
from condense.training.protocol import Protocol
from nas.regime import Regime
from nas.search import resume, show

HERE = Workers(workers=0, device="cpu")
SET = CondensedSet(
    torch.zeros(4, 1, 8, 8),
    torch.tensor([0, 0, 1, 1]),
    ("zero", "one"),
    Standardize(torch.zeros(1), torch.ones(1)),
    {},
)


def plain(width: int) -> nn.Module:
    """A network of one convolution."""
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


OWN = {
    "w4": lambda: plain(4),
    "w8": lambda: plain(8),
    "w16": lambda: plain(16),
    "dropping": lambda: nn.Sequential(nn.Dropout(0.3), plain(4)),
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)),
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    torch.set_num_threads(1)
    return load_dataset("digits")


def _ranked(digits: Dataset, out: Path, networks=OWN, **changes):
    options = {"proxy": ["random:2", "random:2@1"], "seeds": 1, "workers": HERE, "quiet": True}
    return nas.rank(networks, dataset=digits, out=out, **{**options, **changes})


def test_own_networks_are_ranked_with_store_workers_and_report(digits, tmp_path):
    found = _ranked(digits, tmp_path / "run")
    assert (found.done, found.total) == (15, 15)
    rows = {row["arch"]: row for row in found.ranking.rows()}
    assert set(rows) == set(OWN)
    assert rows["w8"]["parameters"] == sum(p.numel() for p in plain(8).parameters())
    assert rows["w8"]["flops"] == 8 * 9 * 64 + 8 * 10
    assert all(np.isfinite(row["random:2 summed_loss"]) for row in rows.values())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"ranking.csv", "report.html", "trials.sqlite", "search.json"} <= names
    assert show(tmp_path / "run").ranking.to_json() == found.ranking.to_json()
    # Where it was stopped it goes on, whatever the random numbers of this process.
    torch.manual_seed(3)
    part = _ranked(digits, tmp_path / "part", minutes=1e-4)
    assert part.done < 15
    assert _ranked(digits, tmp_path / "part").ranking.to_json() == found.ranking.to_json()
    with pytest.raises(UserError, match=r"call nas\.rank again"):
        resume(tmp_path / "part")


def test_functions_of_shape_and_classes_are_taken_as_evaluate_takes_them(digits, tmp_path):
    def flat(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))

    networks = {"flat": flat, "plain": partial(plain, 4)}
    workers = Workers(workers=1, device="cpu")
    rows = _ranked(digits, tmp_path / "own", networks, workers=workers).ranking.rows()
    assert {row["arch"] for row in rows} == {"flat", "plain"}
    assert {row["parameters"] for row in rows if row["arch"] == "flat"} == {64 * 10 + 10}


def test_workers_receive_lambdas(digits, tmp_path):
    two = {name: OWN[name] for name in ("w4", "flat")}
    options = {"networks": two, "proxy": "random:1"}
    alone = _ranked(digits, tmp_path / "alone", **options)
    workers = Workers(workers=1, threads=1, device="cpu")
    assert _ranked(digits, tmp_path / "sent", workers=workers, **options).ranking.to_json() == (
        alone.ranking.to_json()
    )


def test_another_network_of_the_same_name_is_another_candidate(digits, tmp_path):
    options = {"proxy": "random:1", "store": tmp_path / "all.sqlite"}
    first = _ranked(digits, tmp_path / "one", networks={"net": OWN["w4"]}, **options)
    other = _ranked(digits, tmp_path / "two", networks={"net": OWN["w16"]}, **options)
    key = "random:1 summed_loss"
    assert first.ranking.columns[key] != other.ranking.columns[key]
    with pytest.raises(UserError, match="holds another search"):
        _ranked(digits, tmp_path / "one", networks={"net": OWN["w16"]}, **options)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({}, "the networks to rank need names"),
        ([OWN["w4"]], "the networks to rank need names: give a dictionary"),
        ({"net": lambda: nn.Conv2d(3, 4, 3)}, r"`net` fails for images \(2, 1, 8, 8\): Runtime"),
        ({"net": lambda: nn.Flatten()}, r"`net` gives \(2, 64\) for two images"),
        ({"net": lambda: 1 / 0}, "`net` fails .*ZeroDivisionError"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_anything_is_written(
    digits, tmp_path, networks, message
):
    with pytest.raises(UserError, match=message):
        _ranked(digits, tmp_path / "run", networks=networks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seds": 1}, "unknown parameter `seds`: did you mean `seeds`"),
        ({"proxies": "random"}, "unknown parameter `proxies`"),
        ({"workers": "two"}, "`workers` is 'two': it must be a number of processes"),
        ({"proxy": SET}, "by its name or path, and this is a CondensedSet: save a condensed set"),
        ({"dataset": 3}, "a int is not taken"),
    ],
)
def test_choices_that_there_are_not_are_refused(tmp_path, changes, message):
    tiny = {"tiny": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2))}
    with pytest.raises(UserError, match=message):
        nas.rank(tiny, **{"dataset": SET.as_dataset(), "out": tmp_path / "run", **changes})
    assert not (tmp_path / "run").exists()


def test_a_torch_dataset_is_ranked_on_with_a_number_of_workers(digits, tmp_path):
    data = TensorDataset(digits.train.pixels[:60], digits.train.labels[:60])
    networks = {"relu": OWN["w4"], "none": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}
    regime = Regime(protocol=Protocol(epochs=1))
    changes = {"proxy": "random:1", "regime": regime, "workers": 0}
    found = _ranked(data, tmp_path / "run", networks, **changes)
    assert (found.done, found.ranking.missing) == (4, {"naswot": 1, "zen": 1})
    assert f"{found}".startswith(f"SearchResult {tmp_path}/run: 4 of 4 trainings, 2 architectures")
    assert not {"naswot", "zen"} & found.ranking.repeats.keys()
    assert any("naswot: no value for 1 of 2 arch" in note for note in found.notes)
    assert "losses have their sign turned" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_five_models_of_torchvision_and_timm_are_ranked_on_images_like_those_of_cifar10(tmp_path):
    names = ("squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "lcnet_050", "tinynet_e")
    networks = {name: _maker(name) for name in names}
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (100, 3, 32, 32), generator=draws, dtype=torch.uint8)
    images = Images(pixels, torch.arange(100) % 10, tuple("abcdefghij"))
    found = _ranked(Dataset("toys", images, images), tmp_path / "run", networks, proxy="random:1")
    rows = json.loads((tmp_path / "run" / "ranking.json").read_text())["architectures"]
    assert sorted(row["arch"] for row in rows) == sorted(names)
    assert found.done == 10
    assert len({row["synflow"] for row in rows}) == 5


def _maker(name):
    make = getattr(models, name, None) or partial(timm.create_model, name)
    return partial(make, num_classes=10)
