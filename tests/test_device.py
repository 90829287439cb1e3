"""Devices."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from condense import UserError
from condense.device import pick_device, precision

FAULTS = """
import resource, sys, torch
from condense.device import pick_device
if sys.argv[1] == "kept":
    pick_device("cpu")
for turn in range(20):
    if turn == 10:  # the first few grow the heap
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12, 1 << 20).relu_()  # 48 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than GNU's"
)
def test_on_a_cpu_a_map_is_not_fetched_anew_each_time() -> None:
    faults = {
        way: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True
            ).stdout
        )
        for way in ("kept", "returned")
    }
    assert faults["kept"] < 0.1 * faults["returned"]


@pytest.mark.parametrize("name", ["gpu", "cuda:7", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="must be auto, cpu or cuda"):
        pick_device(name)


@pytest.mark.parametrize(
    ("half", "convolutions", "products", "told"),
    [
        (True, True, False, "bfloat16 if compiled, else float32, convolutions in TF32"),
        (False, True, True, "float32, convolutions and matrix products in TF32"),
        (False, False, False, "float32"),
    ],
)
def test_the_precision_of_a_gpu_is_told_in_words(
    half: bool, convolutions: bool, products: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.device.fast_bfloat16", lambda device: half)
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=convolutions))
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=products))
    assert precision(torch.device("cuda")) == told
