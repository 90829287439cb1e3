"""A folder of somebody's own photos, from the folder to an export that is given away."""

from pathlib import Path

import pytest
from PIL import Image
from test_cli import run

from condense.study.record import read_record, write_record

ONE = ["--network", "mlp", "--repeats", "1", "--epochs", "1"]


def photos(folder: Path) -> Path:
    """Four pictures of each of two classes."""
    for name, colour in (("cats", "red"), ("dogs", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20 + number, 20), colour).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of 16 px of the folder `photos`, made in the folder above it."""
    photos(tmp_path / "secret" / "photos")
    monkeypatch.chdir(tmp_path / "secret")
    words = ["select", "--dataset", "folder:photos", "--resolution", "16", "--ipc", "1"]
    assert run_quietly(*words, "--out", tmp_path / "run") == 0
    return tmp_path / "run"


def run_quietly(*words: str | Path) -> int:
    import cli

    return cli.cli.main([*map(str, words)], standalone_mode=False) or 0


def test_an_export_is_evaluated_at_its_own_size(selected: Path, capsys) -> None:
    run_quietly("export", selected, "--out", selected.parent / "pictures")
    words = ["evaluate", selected.parent / "pictures", "--dataset", "folder:photos", *ONE]
    code, out, error = run(capsys, *words)
    assert code == 0, error
    assert "accuracy on 2 test images of folder:photos" in out


def test_a_run_finds_its_pictures_from_anywhere(selected: Path, tmp_path, monkeypatch, capsys):
    elsewhere = photos(tmp_path / "elsewhere" / "photos")  # not those of the run
    monkeypatch.chdir(elsewhere.parent)
    assert run(capsys, "evaluate", selected, *ONE)[0] == 0
    home = tmp_path / "secret" / "photos"
    home.rename(tmp_path / "moved")
    code, _, error = run(capsys, "evaluate", selected, *ONE)
    assert code == 2
    assert f"this run's pictures were at {home}: give --dataset" in error
    moved = f"folder:{tmp_path / 'moved'}"
    assert run(capsys, "evaluate", selected, "--dataset", moved, *ONE)[0] == 0


def test_a_run_that_recorded_a_relative_path_is_read(selected: Path, capsys) -> None:
    record = read_record(selected / "run.json")
    assert record["source"]["name"] == f"folder:{Path.cwd() / 'photos'}"
    record["source"]["name"] = "folder:photos"
    write_record(selected / "run.json", record)
    assert run(capsys, "evaluate", selected, *ONE)[0] == 0


def test_nothing_that_is_given_away_names_the_folders_above(selected: Path, tmp_path) -> None:
    run_quietly("evaluate", selected, *ONE)
    for form, name in (("folder", "pictures"), ("safetensors", "set.safetensors")):
        out = tmp_path / "given" / name
        out.parent.mkdir(exist_ok=True)
        run_quietly("export", selected, "--format", form, "--out", out)
    files = [file for file in (tmp_path / "given").rglob("*") if file.is_file()]
    assert sum(b"folder:photos" in file.read_bytes() for file in files) > 3
    for file in files:
        assert b"secret" not in file.read_bytes(), file


def test_what_is_not_read_is_told(tmp_path: Path, capsys) -> None:
    photos(tmp_path / "photos")
    for name in ("cats/1.heic", "cats/2.HEIC", "notes.txt", ".hidden", "loose.jpg"):
        (tmp_path / "photos" / name).touch()
    code, out, error = run(capsys, "data", "--dataset", f"folder:{tmp_path / 'photos'}", "--verify")
    assert (code, error) == (0, "left out: 2 .heic, 1 .txt, 1 loose picture\n")
    assert "6 training images" in out


def test_a_set_is_shown_as_its_names_are_written(tmp_path: Path, monkeypatch, capsys) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "photos" / "cats").rename(tmp_path / "photos" / "Kätzchen")
    monkeypatch.chdir(tmp_path)
    assert run_quietly("select", "--dataset", "folder:photos", "--ipc", "1", "--out", "run") == 0
    _, out, _ = run(capsys, "show", "run")
    assert '["Kätzchen", "dogs"]' in out
    assert '\n  "method": "random"' in out
    assert "Kätzchen" in run(capsys, "show", "run", "--json")[1]


def test_names_that_are_not_utf_8_are_shown_and_written(tmp_path: Path, capsys) -> None:
    photos(tmp_path / "photos\udcff")
    (tmp_path / "photos\udcff" / "cats").rename(tmp_path / "photos\udcff" / "\udc80")
    data = f"folder:{tmp_path}/photos\udcff"
    code, _, error = run(capsys, "select", "--dataset", data, "--ipc", "1", "--out", tmp_path / "o")
    assert (code, error) == (0, "")
    assert r"photos\udcff" in (tmp_path / "o" / "report.html").read_text()
    assert (
        run(capsys, "report", tmp_path / "o", tmp_path / "o", "--out", tmp_path / "a.html")[0] == 0
    )
