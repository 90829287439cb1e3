"""docs/extend.

The file and the line of each page, put into a copy of the code, are all it takes.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from condense import CondensedSet

ROOT = Path(__file__).parents[2]
CONDENSE = ("--steps", "3", "--ipc", "1", "--real-batch", "4", "--preprocess", "standard")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code, to be added to."""
    for name in ("condense", "continual", "nas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "cli.py", tmp_path)
    return tmp_path


def add(copy: Path, page: str, table: str) -> None:
    """Put the page's file into its place, its line into `table`, and its import, if any."""
    text = (ROOT / "docs" / "extend" / page).read_text()
    file, line = re.findall(r"```(?:python)?\n(.+?)```\n", text, re.DOTALL)
    place, registry = re.findall(r"(?:The file|^The line) is.*?`([a-z0-9_/]+\.py)`", text, re.M)
    (copy / place).write_text(file)
    listed = (copy / registry).read_text()
    assert listed.count(table) == 1
    listed = listed.replace(table, table + line)
    if found := re.search(r"its import \(`(.*?)`\)", text):
        listed = re.sub(r"^(?=from|import)", found[1] + "\n", listed, count=1, flags=re.M)
    (copy / registry).write_text(listed)


def command(copy: Path, *arguments: str) -> str:
    """What the command line says, run on the copy."""
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_file_and_one_line_are_a_method(copy: Path) -> None:
    add(copy, "method.md", "    for kind in (\n")
    flags = ["--method", "moments", "--set", "loss_scale=10", "--network", "convnet-d2-w8"]
    command(copy, "condense", "--dataset", "digits", *CONDENSE, *flags, "--out", "run")
    made = CondensedSet.load(copy / "run")
    assert made.provenance["recipe"]["method"] == {"name": "moments", "loss_scale": 10.0}
    assert len(made) == 10


@pytest.mark.slow
def test_one_file_and_one_line_are_a_dataset(copy: Path) -> None:
    add(copy, "dataset.md", "NAMED = {\n")
    rows = [",".join([*["8"] * 63, str(i % 17), str(i % 10)]) for i in range(50)]
    for end in ("tra", "tes"):
        (copy / f"optdigits.{end}").write_text("\n".join(rows))
    assert "optdigits" in json.loads(command(copy, "data", "--list", "--json"))
    flags = ["--data-dir", str(copy), "--network", "convnet-d2-w8", "--out", "run"]
    command(copy, "condense", "--dataset", "optdigits", "--recipe", "dm", *CONDENSE, *flags)
    made = CondensedSet.load(copy / "run")
    assert made.shape == (1, 8, 8)
    assert made.classes == tuple("0123456789")


@pytest.mark.slow
def test_one_file_and_one_line_are_a_network(copy: Path) -> None:
    add(copy, "network.md", "ZOO = {\n")
    flags = ["--method", "dm", "--network", "allcnn", "--out", "run"]
    command(copy, "condense", "--dataset", "digits", "--recipe", "dm", *CONDENSE, *flags)
    assert CondensedSet.load(copy / "run").provenance["recipe"]["network"] == "allcnn"
    flags = ["--network", "allcnn", "--epochs", "1", "--repeats", "1", "--json"]
    assert "allcnn" in command(copy, "evaluate", "run", *flags)


@pytest.mark.slow
def test_one_file_and_one_line_are_a_search_space(copy: Path) -> None:
    add(copy, "space.md", "SPACES = {\n")
    assert "k3-w16" in command(copy, "nas", "arch", "1", "--space", "kernels")
    flags = ["--sample", "2", "--held-out", "50", "--seeds", "1", "--epochs", "1", "--workers", "0"]
    flags += ["--dataset", "digits", "--proxy", "random:1", "--out", "run", "--json"]
    ranked = json.loads(command(copy, "nas", "--space", "kernels", *flags))
    assert {row["arch"].split("-")[0] for row in ranked["architectures"]} <= {"k3", "k5", "k7"}
    assert ranked["done"] == 4


@pytest.mark.slow
def test_one_file_and_one_line_are_a_continual_strategy(copy: Path) -> None:
    pytest.importorskip("avalanche")
    add(
        copy,
        "strategy.md",
        "STRATEGIES: dict[str, Callable[[dict[str, Any], Any, int], Any]] = {\n",
    )
    flags = ["--steps", "2", "--ipc", "1", "--epochs", "1", "--orders", "1", "--repeats", "1"]
    flags += ["--method", "random", "--network", "convnet-d2-w8", "--out", "run", "--json"]
    told = command(
        copy, "continual", "--dataset", "digits", "--mode", "replay", "--strategy", "ewc", *flags
    )
    assert "random" in told
