"""Every method through the one command.

It runs, and a run that was stopped ends with the same bits.
"""

import shutil
from pathlib import Path

import pytest
import torch

from condense import CondensedSet, condense, load_dataset, recipe_for, resume
from condense.data.images import Dataset
from condense.methods import METHODS
from condense.training.experts import Training, train_experts

TINY = {
    "cafe": {"queue": 2, "query": 4, "most_passes": 3, "outer_bound": 0.5},
    "dc": {"outer_loops": 2, "inner_loops": 2},
    "dsa": {"outer_loops": 2, "inner_loops": 2},
    "dd": {"halve_every": 2},
    "mtt": {
        "student_steps": 4,
        "max_start": 3,
        "batch": 8,
        "lr": 10.0,
        "rate_lr": 1e-6,
        "preprocess": "standard",
    },
    "ld": {"inner_batch": 5, "patience": 1},
    "gmmn": {"width": 4},
    "cgan": {"width": 4},
    "vae": {"width": 4},
}
"""What makes a method small.

`outer_bound` and `patience` so that networks are replaced within the few steps.
"""


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_it_ends_with_the_same_file(
    digits: Dataset, method: str, tmp_path: Path
) -> None:
    small = {"network": "convnet-d2-w8", "real_batch": 8, "steps": 6, **TINY.get(method, {})}
    if method == "mtt":
        train_experts(
            digits,
            Training(network="convnet-d2-w8", preprocess="standard", passes=4),
            1,
            tmp_path / "experts",
            quiet=True,
        )
        small["experts"] = str(tmp_path / "experts")
    recipe = recipe_for(
        "paper" if method == "datadam" else method, digits.name, digits.shape, 2
    ).override(small)
    undisturbed = condense(
        digits, ipc=2, recipe=recipe, out=tmp_path / "whole", checkpoint_every=3, quiet=True
    )
    assert len(undisturbed) == 20
    assert undisturbed.images.isfinite().all()
    start = CondensedSet.load(tmp_path / "whole" / "start.safetensors")
    assert not (
        torch.equal(undisturbed.images, start.images)
        and torch.equal(undisturbed.class_of(), start.labels)
    )

    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    (stopped / "set.safetensors").unlink()
    (stopped / "checkpoints" / "step-00000006.safetensors").unlink()
    resume(stopped, quiet=True)
    assert (stopped / "set.safetensors").read_bytes() == (
        tmp_path / "whole" / "set.safetensors"
    ).read_bytes()
