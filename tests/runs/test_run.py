"""Run folders.

Killed, interrupted, damaged, contended for; the same file in the end, or one clear line.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from condense import CondensedSet, UserError, condense, load_dataset, recipe_for, resume
from condense.data.images import Dataset
from condense.files import save_tensors
from condense.methods.base import Recipe
from condense.runs.job import Checkpoints
from condense.runs.ranks import Ranks
from condense.runs.rehearsal import rehearse

CLI = [sys.executable, str(Path(__file__).parents[2] / "cli.py")]
FLAGS = [
    "--dataset", "digits", "--ipc", "2", "--network", "convnet-d2-w8", "--real-batch", "8",
    "--recipe", "datadam",
    "--steps", "120", "--checkpoint-every", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def small(digits: Dataset, **changes: object) -> Recipe:
    settings = {
        "network": "convnet-d2-w8",
        "real_batch": 8,
        "steps": 12,
        "loss_scale": 100.0,
        **changes,
    }
    return recipe_for("paper", digits.name, digits.shape, 2).override(settings)


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not any(int(path.stem.removeprefix("step-")) >= step for path in checkpoints(folder)):
        assert process.poll() is None, f"the run ended before step {step}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_five_times_and_resumed_ends_with_the_same_file(tmp_path: Path) -> None:
    subprocess.run(
        [*CLI, "condense", *FLAGS, "--out", str(tmp_path / "undisturbed")],
        check=True,
        capture_output=True,
    )
    folder, moments = tmp_path / "killed", random.Random(0)
    for number, step in enumerate(sorted(moments.sample(range(1, 110), 5))):
        how = ["--resume", str(folder)] if number else [*FLAGS, "--out", str(folder)]
        process = subprocess.Popen(
            [*CLI, "condense", *how], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_step(folder, step, process)
        time.sleep(
            moments.uniform(0, 0.05)
        )  # anywhere in a step, or in the writing of a checkpoint
        process.kill()
        process.wait()
        assert not (folder / "set.safetensors").exists() or step > 100
    subprocess.run([*CLI, "condense", "--resume", str(folder)], check=True, capture_output=True)
    assert (folder / "set.safetensors").read_bytes() == (
        tmp_path / "undisturbed" / "set.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_interrupted_it_saves_says_how_to_go_on_and_exits_with_130(tmp_path: Path) -> None:
    flags = [*FLAGS, "--steps", "2000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*CLI, "condense", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path, 4, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"condense --resume {tmp_path}" in errors
    assert "Traceback" not in errors
    # What it stopped after is what it kept, whether or not a checkpoint was due.
    stopped = int(errors.split("stopped after step ")[1].split()[0])
    assert checkpoints(tmp_path)[-1].stem == f"step-{stopped:08d}"


def test_without_a_folder_it_is_the_same_set(digits: Dataset, tmp_path: Path) -> None:
    in_memory = condense(digits, ipc=2, recipe=small(digits), quiet=True)
    kept = condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    assert torch.equal(in_memory.images, kept.images)
    assert in_memory.fingerprint == CondensedSet.load(tmp_path).fingerprint
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {
        "set.safetensors",
        "start.safetensors",
        "run.json",
        "grid.png",
        "checkpoints",
        "history.json",
        "frames",
        "report.html",
        "tensorboard",
    }
    assert json.loads((tmp_path / "run.json").read_text())["progress"]["finished"] is True


def test_the_pixels_move_and_the_labels_do_not(digits: Dataset, tmp_path: Path) -> None:
    moved = condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    start = CondensedSet.load(tmp_path / "start.safetensors")
    assert not torch.equal(moved.images, start.images)
    assert torch.equal(moved.labels, start.labels)
    assert moved.provenance["dataset"]["fingerprint"] == digits.fingerprint


def test_seeds_differ_and_repeat(digits: Dataset) -> None:
    first, again, other = (
        condense(digits, ipc=2, recipe=small(digits), seed=seed, quiet=True) for seed in (0, 0, 1)
    )
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    digits: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    undisturbed = condense(
        digits, ipc=2, recipe=small(digits), out=tmp_path, checkpoint_every=4, quiet=True
    )
    (tmp_path / "set.safetensors").unlink()
    last = checkpoints(tmp_path)[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert resume(tmp_path, quiet=True).fingerprint == undisturbed.fingerprint
    assert str(last) in capfd.readouterr().err


def test_resuming_a_finished_run_changes_nothing(digits: Dataset, tmp_path: Path) -> None:
    done = condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
    assert resume(tmp_path, quiet=True).fingerprint == done.fingerprint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")} == before


def test_a_folder_of_another_run_is_left_alone(digits: Dataset, tmp_path: Path) -> None:
    condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"other settings \(recipe.lr 1.0 there, 2.0 here\)"):
        condense(digits, ipc=2, recipe=small(digits, lr=2.0), out=tmp_path, quiet=True)
    with pytest.raises(UserError, match="already holds this run"):
        condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_folder_in_use_is_refused(digits: Dataset, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="in use by another run"):
        condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    assert not (tmp_path / "run.json").exists()


def test_a_diverging_loss_keeps_the_last_good_checkpoint(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower --lr or --loss-scale"):
        condense(
            digits,
            ipc=2,
            recipe=small(digits, lr=1e9),
            out=tmp_path,
            checkpoint_every=1,
            quiet=True,
        )
    assert not (tmp_path / "set.safetensors").exists()


def test_another_file_in_the_place_of_a_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Checkpoints(tmp_path, Ranks())
    kept.save({"images": torch.ones(2)}, step=200)
    save_tensors(tmp_path / "checkpoints" / "step-00000400.safetensors", {}, {"seed": 0})
    assert (found := kept.last_good()) is not None
    assert found[1] == 200
    assert "step-00000400.safetensors: step" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_loses_nothing(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = condense(digits, ipc=2, recipe=small(digits), quiet=True)
    sync = os.fsync

    def full(handle: int) -> None:
        if len(checkpoints(tmp_path)) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        condense(digits, ipc=2, recipe=small(digits), out=tmp_path, checkpoint_every=2, quiet=True)
    monkeypatch.undo()
    assert len(checkpoints(tmp_path)) == 2
    assert not list(tmp_path.rglob(".condensekit-*"))
    assert resume(tmp_path, quiet=True).fingerprint == undisturbed.fingerprint


def test_a_run_on_other_data_is_not_resumed(digits: Dataset, tmp_path: Path) -> None:
    condense(digits, ipc=2, recipe=small(digits), out=tmp_path, quiet=True)
    (tmp_path / "set.safetensors").unlink()
    with pytest.raises(UserError, match=digits.fingerprint):
        resume(tmp_path, digits.hold_out(100, seed=0), quiet=True)


@pytest.mark.parametrize("init", ["noise", "kcenter"])
def test_other_starting_points(digits: Dataset, init: str) -> None:
    start = condense(digits, ipc=2, recipe=small(digits, init=init, steps=0), quiet=True)
    moved = condense(digits, ipc=2, recipe=small(digits, init=init), quiet=True)
    assert len(start) == len(moved) == 20
    assert not torch.equal(start.images, moved.images)


def test_more_images_than_a_class_has_are_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="500"):
        condense(digits, ipc=500, recipe=small(digits), quiet=True)


def test_a_rehearsal_does_not_diverge_where_its_noise_would(digits: Dataset) -> None:
    recipe = small(digits, lr=1e30)
    assert rehearse(digits, ipc=2, recipe=recipe).recipe == recipe
    with pytest.raises(UserError, match="the loss diverged by step"):
        condense(digits, ipc=2, recipe=recipe, quiet=True)


def test_a_rehearsal_measures_and_writes_nothing(digits: Dataset) -> None:
    told = rehearse(digits, ipc=2, recipe=small(digits))
    assert told.step > 0
    assert told.peak_memory > 10**6
    assert told.to_json()["recipe"]["real_batch"] == 8
