"""docs/add-a-method.md: its file and its line, put into a copy of the package, are a method of the command."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from condense import CondensedSet

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_one_file_and_one_line_are_a_method(tmp_path: Path) -> None:
    file, line = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.DOTALL
    )
    shutil.copytree(
        ROOT / "condense", tmp_path / "condense", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "cli.py", tmp_path)
    methods = tmp_path / "condense" / "methods"
    (methods / "moments.py").write_text(file)
    listed = (methods / "__init__.py").read_text()
    listed = listed.replace(
        "METHODS: dict[str, type] = {\n", f"METHODS: dict[str, type] = {{\n{line}"
    )
    (methods / "__init__.py").write_text(
        listed.replace("\n\nfrom", "\n\nfrom condense.methods.moments import Moments\nfrom", 1)
    )
    assert len(file.splitlines()) <= 40

    flags = [
        "--dataset",
        "digits",
        "--method",
        "moments",
        "--set",
        "loss_scale=10",
        "--steps",
        "3",
        "--ipc",
        "1",
    ]
    flags += ["--network", "convnet-d2-w8", "--real-batch", "4", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "cli.py", "condense", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = CondensedSet.load(tmp_path / "run")
    assert made.provenance["recipe"]["method"] == {"name": "moments", "loss_scale": 10.0}
    assert len(made) == 10
