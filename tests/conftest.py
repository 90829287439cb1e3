"""What several test files share."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory, request) -> Path:
    """A `data_dir` with the real CIFAR-10, unpacked once a session, also where several workers
    share it.
    """
    if not (SHARED / "cifar10_test.npz").is_file():
        pytest.skip(f"no packed CIFAR-10 in {SHARED}")
    parallel = hasattr(request.config, "workerinput")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "cifar10"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            subprocess.run(
                [sys.executable, SHARED / "unpack.py", folder, "cifar10"],
                check=True,
                capture_output=True,
            )
            (folder / "complete").touch()
    return folder
