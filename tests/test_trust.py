"""Files that nobody vouches for run no code, and commands replace nothing that is not theirs."""

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from condense import condense, load_dataset, recipe_for
from condense.sets.condensed import CondensedSet

TINY = {"network": "convnet-d1-w8", "real_batch": 4, "steps": 2}


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    argv, code = sys.argv, 0
    sys.argv = ["cli.py", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("made") / "run"
    recipe = recipe_for("dm", "digits", (1, 8, 8), 1).override(TINY)
    how = {"device": "cpu", "checkpoint_every": 1, "quiet": True}
    condense(load_dataset("digits"), ipc=1, recipe=recipe, out=folder, **how)
    return folder


class Payload:
    """Unpickling it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def objects(mark: Path) -> bytes:
    """An `.npz` whose arrays are of Python objects."""
    buffer, array = io.BytesIO(), np.array([Payload(mark)], dtype=object)
    names = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
    np.savez(buffer, **dict.fromkeys(names, array))
    return buffer.getvalue()


def saved(mark: Path, zipped: bool) -> bytes:
    """A `.pt` file with the payload beside honest tensors."""
    buffer = io.BytesIO()
    content = {"data": [[torch.zeros(10, 1, 8, 8), torch.arange(10)]], "more": Payload(mark)}
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


PLANTED: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: pickle.dumps(Payload(mark)),
    "npz": objects,
    "pt": lambda mark: saved(mark, zipped=True),
    "old pt": lambda mark: saved(mark, zipped=False),
}


def test_what_is_planted_would_run(tmp_path: Path) -> None:
    """Unless these files are dangerous, the other tests show nothing."""
    for number, (kind, plant) in enumerate(PLANTED.items()):
        mark, content = tmp_path / str(number), plant(tmp_path / str(number))
        if kind == "pickle":
            pickle.loads(content)
        elif kind == "npz":
            np.load(io.BytesIO(content), allow_pickle=True)["train_images"]
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        assert mark.is_dir(), kind


def reading(made: Path, place: Path) -> dict[str, tuple[list[Path], list[str | Path]]]:
    """For each reader: the files to plant, and the command that reads them."""
    run_folder, pictures = place / "run", place / "pictures"
    of_digits = ["--dataset", "digits", "--preprocess", "standard", "--out", place / "out"]
    evaluate = ["evaluate", run_folder, "--network", "mlp", "--repeats", "1", "--epochs", "1"]
    config = ["condense", "--config", place / "a.toml", "--dataset", "digits", "--out", place / "o"]
    classes = [pictures / "cat" / f"{number}.png" for number in range(3)]
    tensors = [place / "images_best.pt", place / "labels_best.pt"]
    nas = [
        "nas",
        "--space",
        "convnet720",
        "--dataset",
        "digits",
        "--resolution",
        "32",
        "--held-out",
        "99",
    ]
    convert = ["nas", "convert", place / "r.pth", "--out", place / "r.csv"]
    return {
        "import .pt": ([place / "a.pt"], ["import", place / "a.pt", *of_digits]),
        "import pair": (tensors, ["import", tensors[0], *of_digits]),
        "import .npz": ([place / "a.npz"], ["import", place / "a.npz", *of_digits]),
        "import folder": (
            [pictures / "0" / "1.png", pictures / "classes.json"],
            ["import", pictures, *of_digits],
        ),
        "dataset .npz": ([place / "a.npz"], ["data", "--dataset", place / "a.npz"]),
        "dataset folder": (
            [*classes, pictures / "dog" / "1.png"],
            ["data", "--dataset", f"folder:{pictures}"],
        ),
        "set": ([run_folder / "set.safetensors"], ["show", run_folder]),
        "record": ([run_folder / "run.json"], evaluate),
        "run": ([run_folder / "run.json"], ["condense", "--resume", run_folder]),
        "start": ([run_folder / "start.safetensors"], ["condense", "--resume", run_folder]),
        "checkpoints": (
            [run_folder / "checkpoints" / f"step-0000000{step}.safetensors" for step in (1, 2)],
            ["condense", "--resume", run_folder],
        ),
        "config": ([place / "a.toml"], config),
        "continual": ([place / "c" / "plan.json"], ["continual", "--resume", place / "c"]),
        "search": ([place / "s" / "search.json"], ["nas", "show", place / "s"]),
        "reference": (
            [place / "r.csv"],
            [*nas, "--reference", place / "r.csv", "--out", place / "n"],
        ),
        "proxy": (
            [run_folder / "set.safetensors"],
            [*nas, "--proxy", run_folder, "--out", place / "n"],
        ),
        "official": ([place / "r.pth"], convert),
    }


READERS = sorted(reading(Path(), Path()))


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_what_is_planted(
    reader: str, planted: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(made, tmp_path / "run", finished=reader in ("set", "record"))
    files, command = reading(made, tmp_path)[reader]
    mark = tmp_path / "mark"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PLANTED[planted](mark))
    code, _, err = run(capsys, *command)
    assert not mark.exists()
    if reader == "checkpoints":  # they are reported, and the run starts again
        assert (code, err.count("is damaged")) == (0, 2)
    else:
        assert code == 2
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert any(str(file.relative_to(tmp_path)) in line for file in files)


def copy(run_folder: Path, to: Path, finished: bool) -> None:
    """The folder of a run, as it is at the end or before the set is written."""
    for file in run_folder.rglob("*.*"):
        if file.is_file() and (finished or file.name not in ("set.safetensors", "grid.png")):
            (to / file.relative_to(run_folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(run_folder)).write_bytes(file.read_bytes())


# ---- what commands replace


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_export_replaces_a_file_only_by_force(
    form: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("mine")
    command = ["export", made, "--format", form, "--out", path]
    code, _, err = run(capsys, *command)
    assert (code, path.read_text()) == (2, "mine")
    assert err == f"error: {path} exists: choose another name, or replace it with --force\n"
    assert run(capsys, *command, "--force")[0] == 0
    assert zipfile.is_zipfile(path)


def test_show_replaces_a_file_only_by_force(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("mine")
    code, out, err = run(capsys, "show", made, "--grid", path)
    assert (code, out, path.read_text()) == (2, "", "mine")
    assert "--force" in err
    assert run(capsys, "show", made, "--grid", path, "--force")[0] == 0
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_report_replaces_a_report_and_nothing_else(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("mine")
    for runs in ([made], [made, made]):
        code, out, err = run(capsys, "report", *runs, "--out", path)
        assert (code, out, path.read_text()) == (2, "", "mine")
        assert (
            err
            == f"error: {path} is no report of ours, and is not replaced: choose another --out\n"
        )
    for _ in range(2):
        assert run(capsys, "report", made, "--out", tmp_path / "a.html")[0] == 0


STREAM = ["continual", "--method", "random", "--steps", "2", "--network", "convnet-d1-w4"]
SEARCH = ["--space", "convnet720", "--depth", "1", "--held-out", "20", "--workers", "0"]


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["select", "--ipc", "1"], ["grid.png", "report.html"]),
        (["condense", "--method", "dm", "--ipc", "1"], ["grid.png", "history.json", "report.html"]),
        (STREAM, ["accuracy.png", "summary.json", "report.html"]),
        (
            ["nas", *SEARCH, "--sample", "1"],
            ["ranking.csv", "ranking.json", "indices.txt", "report.html"],
        ),
        (["nas", "reference", *SEARCH, "--sample", "1"], ["reference.csv"]),
        (
            ["nas", "search", *SEARCH, "--budget", "1"],
            ["incumbents.csv", "incumbents.json", "report.html"],
        ),
    ],
)
def test_new_work_replaces_nothing_in_its_folder(
    command: list[str], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        code, _, err = run(capsys, *command, "--dataset", "digits", "--out", folder)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{folder / name} is there already, and is not replaced" in err
        assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_devices_pipes_and_links_are_never_replaced(
    force: list[str], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "link").symlink_to("precious.txt")
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "link", tmp_path / "pipe", tmp_path):
        before = path.lstat()
        for command in (
            ["export", made, "--format", "npz", "--out", path],
            ["export", made, "--format", "pt", "--out", path],
            ["export", made, "--format", "folder", "--out", path],
            ["show", made, "--grid", path],
        ):
            options = force if "folder" not in command else []
            code, _, err = run(capsys, *command, *options)
            assert code == 2
            assert err.startswith("error: cannot ")
            assert os.path.samestat(before, path.lstat())
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_set_is_not_written_through_a_planted_link(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of a run folder are planted as links to a file of the user."""
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for name in ("set.safetensors", "grid.png", "start.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).symlink_to(precious)
        run(capsys, "select", "--dataset", "digits", "--ipc", "1", "--out", folder)
        assert precious.read_text() == "mine"


def test_photos_of_other_classes_are_not_taken_for_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save([torch.randn(30, 1, 8, 8), torch.arange(30) % 6], tmp_path / "photos.pt")
    code, _, err = run(
        capsys, "import", tmp_path / "photos.pt", "--dataset", "digits",
        "--preprocess", "standard", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "its 30 images are of 6 classes, digits has 10" in err
    assert not (tmp_path / "out").exists()


def test_an_export_comes_back_by_import(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("folder", "npz", "pt"):
        path, out = tmp_path / f"a.{form}", tmp_path / f"out {form}"
        assert run(capsys, "export", made, "--format", form, "--out", path)[0] == 0
        code, _, err = run(
            capsys, "import", path, "--dataset", "digits", "--preprocess", "standard",
            "--out", out,
        )  # fmt: skip
        assert (code, err) == (0, "")
        assert torch.equal(CondensedSet.load(out).pixels(), CondensedSet.load(made).pixels())
