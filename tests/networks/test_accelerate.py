"""Faster networks compute what the plain ones do, and their copies stand on their own."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from condense.networks.accelerate import Accelerated, InBlocks
from condense.networks.build import build, initialise


@pytest.fixture
def network():
    network = build("convnet-d2-w8", (1, 8, 8), 3)
    initialise(network, 0, 0)
    return network


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_blocks_give_the_logits_and_the_gradient_of_the_whole_batch(network, count):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    (wanted,) = torch.autograd.grad(expected.square().sum(), network.classifier[-1].weight)
    logits = InBlocks(network, 4)(images)
    (found,) = torch.autograd.grad(logits.square().sum(), network.classifier[-1].weight)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_copy_of_an_accelerated_network_has_weights_of_its_own(network, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    images = torch.ones(2, 1, 8, 8)
    fast = InBlocks(Accelerated(network, torch.device("cpu")), 4)
    before = fast(images)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other.network.classifier[-1].bias += 1
    assert torch.equal(fast(images), before)
    assert torch.allclose(
        other(images), before + 1, atol=0.05
    )  # the original may compute in bfloat16


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler here")
def test_a_library_that_a_killed_compiler_left_empty_is_compiled_anew(tmp_path: Path) -> None:
    """That of the backward pass too, which is not run when the failure can still be mended."""
    program = """
import torch
from condense.networks.accelerate import Compiled
images = torch.ones(2, 1, 4, 4, requires_grad=True)
run = Compiled(lambda images: (images.sin() * 3).tanh())
run(images).sum().backward()
print(run._compiled is not None, images.grad.sum().item())
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    def once() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )

    whole = once().stdout
    assert whole.startswith("True")
    libraries = list(tmp_path.rglob("*.so"))
    assert len(libraries) >= 2
    for library in libraries:
        library.write_bytes(b"")
    again = once()
    assert again.stdout == whole
    assert "does not work" not in again.stderr
