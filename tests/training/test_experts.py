"""Expert trajectories.

What is kept of a training, and that a folder of them is gone on with, not begun again.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from condense import UserError, load_dataset
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.files import load_tensors, save_tensors
from condense.networks import build as networks
from condense.randomness import derive
from condense.training.experts import Experts, Training, train_experts
from condense.training.train import accuracy

CLI = [sys.executable, str(Path(__file__).parents[2] / "cli.py")]
TRAINING = Training(
    network="convnet-d2-w8", preprocess="standard", passes=3, lr=0.05, batch=64, storage="float32"
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("experts")
    train_experts(digits, TRAINING, 2, made, quiet=True)
    return made


def test_an_expert_starts_fresh_and_learns(digits: Dataset, folder: Path) -> None:
    experts = Experts(folder)
    assert (experts.count, experts.passes) == (2, 3)
    network = networks.build("convnet-d2-w8", digits.shape, 10)
    networks.initialise(network, derive(0, "expert"), 1)
    start, end = experts.weights(1, 0, 3)
    assert torch.equal(start, parameters_to_vector(network.parameters()))
    test = make_preprocess("standard", digits).apply(digits.test.pixels), digits.test.labels
    before = accuracy(network, *test)
    vector_to_parameters(end, network.parameters())
    assert accuracy(network, *test) > before + 0.3
    assert not torch.equal(experts.weights(0, 0, 3)[0], start)


def test_a_folder_is_filled_up_to_the_same_experts(
    digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    train_experts(digits, TRAINING, 1, tmp_path, quiet=True)
    first = (tmp_path / "expert-0000.safetensors").stat().st_mtime_ns
    train_experts(digits, TRAINING, 2, tmp_path, quiet=True)
    assert (tmp_path / "expert-0000.safetensors").stat().st_mtime_ns == first
    for name in ("expert-0000.safetensors", "expert-0001.safetensors", "experts.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_half_precision_rounds_the_way_by_little(
    digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    train_experts(digits, replace(TRAINING, storage="float16"), 1, tmp_path, quiet=True)
    exact, half = (
        load_tensors(path / "expert-0000.safetensors")[0]["weights"] for path in (folder, tmp_path)
    )
    assert half.dtype == torch.float16
    way = (exact[2] - exact[0]).norm()
    assert (half.float()[2] - exact[2]).norm() < 0.01 * way


def test_a_folder_of_another_training_is_left_alone(digits: Dataset, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"another training \(lr 0.05 there, 0.1 here\)"):
        train_experts(digits, replace(TRAINING, lr=0.1), 3, folder, quiet=True)
    with pytest.raises(UserError, match=r"fingerprint .* there"):
        train_experts(digits.hold_out(100, seed=0), TRAINING, 3, folder, quiet=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 0.1}, "lr 0.1 there, 0.05 here"), ({"passes": 2}, "passes 2 there, 3 here")],
)
def test_the_file_of_another_training_is_refused(
    digits: Dataset, folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    train_experts(digits, replace(TRAINING, **change), 2, tmp_path, quiet=True)
    shutil.copy(folder / "experts.json", tmp_path)
    words = rf"expert-0001.safetensors is no expert of this folder \({message}\)"
    shutil.copy(folder / "expert-0000.safetensors", tmp_path)
    with pytest.raises(UserError, match=words):
        train_experts(digits, TRAINING, 2, tmp_path, quiet=True)
    with pytest.raises(UserError, match=words):
        Experts(tmp_path).weights(1, 0, 1)
    shutil.copy(folder / "expert-0000.safetensors", tmp_path / "expert-0001.safetensors")
    with pytest.raises(UserError, match="expert 0 there, 1 here"):
        train_experts(digits, TRAINING, 2, tmp_path, quiet=True)


def test_the_file_of_an_older_version_is_kept_if_it_may_be_right(
    digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "experts.json", tmp_path)
    path = tmp_path / "expert-0000.safetensors"
    weights = load_tensors(folder / path.name)[0]["weights"]
    save_tensors(path, {"weights": weights}, {"expert": 0})
    assert train_experts(digits, TRAINING, 1, tmp_path, quiet=True).count == 1
    save_tensors(path, {"weights": weights[1:]}, {"expert": 0})
    with pytest.raises(UserError, match="passes 2 there, 3 here"):
        train_experts(digits, TRAINING, 1, tmp_path, quiet=True)


def test_the_command(tmp_path: Path) -> None:
    flags = [
        "--dataset",
        "digits",
        "--network",
        "convnet-d2-w8",
        "--preprocess",
        "standard",
        "--passes",
        "2",
        "--count",
        "1",
    ]
    run = subprocess.run(
        [*CLI, "experts", *flags, "--out", str(tmp_path / "e"), "--json"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"folder": str(tmp_path / "e"), "experts": 1, "passes": 2}
    wrong = subprocess.run(
        [*CLI, "experts", *flags, "--storage", "int8", "--out", str(tmp_path / "f")],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "int8" in wrong.stderr
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("passes", [1, 3])
def test_as_graphs_an_expert_is_captured_once_for_each_size_of_its_batches(
    passes: int, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = []

    def capture(work: Any, device: torch.device) -> Any:
        captures.append(1)
        result = work().clone()
        return lambda: result.copy_(work()), result

    monkeypatch.setattr("condense.networks.graph.capture", capture)
    monkeypatch.setattr("condense.training.train.has_graphs", lambda device: True)
    training = replace(TRAINING, passes=passes, augment="none", batch=1000)
    train_experts(digits, training, 1, tmp_path, device="cpu", quiet=True)
    assert len(digits.train) % 1000
    assert len(captures) == 2


@pytest.mark.parametrize(
    "tensors",
    [
        {"images": torch.zeros(4, 2)},
        {"weights": torch.zeros(2, 5)},
        {"weights": torch.zeros(())},
        {"weights": torch.zeros(4, 2, 1)},
    ],
)
def test_another_file_in_the_place_of_an_expert_is_refused(
    folder: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    save_tensors(tmp_path / "expert-0000.safetensors", tensors, {})
    with pytest.raises(UserError, match=r"expert-0000\.safetensors is no expert of this folder"):
        Experts(tmp_path).weights(0, 0, 1)


def test_the_file_of_an_expert_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        "condense.training.experts.load_tensors",
        lambda path: read.append(path.name) or load_tensors(path),
    )
    experts = Experts(folder)
    ends = [experts.weights(number, 0, 3)[1] for number in (0, 1, 0, 1)]
    assert sorted(read) == ["expert-0000.safetensors", "expert-0001.safetensors"]
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[1])
