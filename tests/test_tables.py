"""The tables of the paper run at toy scale, keep what they made, go on from it, and tell it as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import results
from benchmarks.tables import cells
from benchmarks.tables.__main__ import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where result files go."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    return tmp_path


def run(folder: Path, *flags: str) -> Result:
    result = CliRunner().invoke(main, [*flags, "--scale", "smoke", "--work", str(folder / "work")])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(folder: Path, table: str) -> dict[str, Any]:
    return json.loads((folder / "results" / f"tables_{table}_smoke.json").read_text())


def test_the_main_table_has_every_method_and_is_not_made_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(folder, "main").exit_code == 0
    found = document(folder, "main")
    assert {"random", "herding", "datadam", "dm"} <= {entry["row"] for entry in found["entries"]}
    for entry in found["entries"]:
        assert entry["missing_sets"] == 0, entry
        assert entry["score"]["sets"] == 2
    assert (folder / "results" / "tables_main_smoke.png").read_bytes().startswith(b"\x89PNG")

    def twice(*args: Any, **options: Any) -> Any:
        raise AssertionError("made again")

    for name in ("condense", "resume", "select", "train_many"):
        monkeypatch.setattr(cells, name, twice)
    run(folder, "main")
    assert document(folder, "main")["entries"] == found["entries"]
