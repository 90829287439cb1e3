"""What the commands say on the way: where one starts, while they work, and when nothing is left."""

import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

import cli
from condense import load_dataset, progress, recipe_for
from condense.command import guard
from condense.command.advice import of_networks, of_sets
from condense.data.preprocess import make_preprocess
from condense.device import pick_device
from condense.methods.selection import select
from condense.networks.accelerate import Compiled
from condense.runs import standard
from condense.runs.pools import pool_of
from condense.runs.run import condense, resume
from condense.version import version

ROOT = Path(__file__).parents[1]
_JOINING = "convnet-d1-w8-batch"
TINY = {"network": "convnet-d1-w8", "steps": 2, "real_batch": 4}


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["condensekit", *map(str, arguments)])
        try:
            guard.run(cli.cli)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "made"
    digits = load_dataset("digits")
    recipe = recipe_for("dm", "digits", digits.shape, 2).override(TINY)
    condense(digits, ipc=2, recipe=recipe, device="cpu", out=folder, quiet=True)
    return folder


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert "condense   Condense a dataset" in out
    assert run(capsys, "--version")[1] == f"condensekit {version()}\n"


@pytest.mark.parametrize("command", [("conden",), ("nas", "serch")])
def test_an_unknown_command_lists_all(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "known: " in err
    assert f"did you mean `{'condense' if len(command) == 1 else 'search'}`" in err


def test_a_folder_of_pictures_is_called_what_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pictures" / "zero").mkdir(parents=True)
    (tmp_path / "pictures" / "zero" / "1.png").touch()
    code, _, err = run(capsys, "evaluate", tmp_path / "pictures")
    assert (code, err.count("\n")) == (2, 1)
    assert "pictures" in err
    assert "by `condensekit import" in err
    assert "holds no run" in run(capsys, "evaluate", tmp_path)[2]


def test_going_on_with_a_finished_run_says_that_it_is_finished(
    capsys: pytest.CaptureFixture[str], made: Path
) -> None:
    code, out, err = run(capsys, "condense", "--resume", made)
    assert (code, err) == (0, f"{made} is finished: nothing is left to do\n")
    assert "set.safetensors" in out
    resume(made, quiet=True)
    assert capsys.readouterr().err == ""


def test_the_training_of_a_pool_shows_its_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    digits = load_dataset("digits")
    tiny = {"network": "convnet-d1-w8", "pool": 2, "pool_steps": 30}
    recipe = recipe_for("best", "digits", digits.shape, 1).override(tiny)
    preprocess, place = make_preprocess("standard", digits), pick_device("cpu")
    pool_of(digits, recipe, preprocess, seed=0, device=place, quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 60
    assert re.match(
        r"train the pool: 30/60, .* left, done about .*network 1, pass 2 of 2", lines[29]
    )
    assert "network 2, pass 1 of 2" in lines[30]


def test_what_ends_in_weeks_is_told_with_its_date() -> None:
    end = datetime.now() + timedelta(days=29)
    assert f"done about {end:%A} {end.day} {end:%B} " in progress.until(29 * 86400)
    assert re.fullmatch(r"20 h 0 min, done about (\w+day )?\d\d:\d\d", progress.until(20 * 3600))


def test_json_leaves_the_progress_on_stderr(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    flags = ["--network", "mlp", "--epochs", "1", "--repeats", "2", "--device", "cpu", "--json"]
    _, out, err = run(capsys, "evaluate", made, *flags)
    assert json.loads(out)["done"] == 2
    assert "evaluate: 2/2" in err


def test_what_lies_deep_is_heard_where_someone_asked_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    digits, tiny = load_dataset("digits"), {"network": "convnet-d1-w8", "feature_epochs": 2}
    standard = make_preprocess("standard", digits)

    def work(seed: int) -> str:
        with progress.notice("whitening"):
            time.sleep(0.2)
        select("herding", digits, 1, preprocess=standard, seed=seed, device="cpu", **tiny)
        return capsys.readouterr().err

    assert work(seed=0) == ""
    with progress.aloud():
        told = work(seed=1)
    assert told.startswith("whitening ...\n")
    assert "train the feature network, passes: 2/2" in told


@pytest.mark.parametrize(
    ("preprocess", "network", "warned"),
    [
        ("zca", "convnet-d1-w8-batch", True),
        ("zca", "mlp", False),
        ("standard", "convnet-d1-w8-batch", False),
    ],
)
def test_whitened_sets_and_batch_norm_are_warned_of(
    tmp_path: Path, preprocess: str, network: str, warned: bool
) -> None:
    digits = load_dataset("digits")
    chosen = select("random", digits, 1, preprocess=make_preprocess(preprocess, digits), seed=0)
    lines = of_networks([chosen], (network,))
    assert bool(lines) is warned
    assert all(network in line for line in lines)


def test_sets_of_several_kinds_are_warned_of() -> None:
    digits = load_dataset("digits")
    preprocess = make_preprocess("standard", digits)
    first, second, larger = (
        select("random", digits, ipc, preprocess=preprocess, seed=seed)
        for ipc, seed in ((1, 0), (1, 1), (2, 0))
    )
    herded = select("herding", digits, 1, preprocess=preprocess, seed=0, feature_epochs=1)
    assert of_sets([first, second]) == []
    assert "not of one kind" in of_sets([first, larger])[0]
    assert "not of one kind" in of_sets([first, herded])[0]


def test_a_dry_run_is_a_table_with_times(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "digits", "--recipe", "dm", "--ipc", "1", "--device", "cpu"]
    tiny = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    with torch.compiler.set_stance("force_eager"):  # what is said does not depend on the speed
        code, out, _ = run(capsys, "condense", *flags, *tiny, "--dry-run")
    assert code == 0
    assert re.search(r"the run in all: .*done about \d\d:\d\d if it began now", out)
    assert "then `evaluate` with its defaults, 20 networks" in out
    assert re.search(r"real_batch=4 +Real images", out)


def test_a_dry_run_with_minutes_tells_what_fits_into_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--dataset", "digits", "--recipe", "dm", "--ipc", "1", "--dry-run", "--json"]
    tiny = ["--network", "convnet-d1-w8", "--real-batch", "4", "--steps", "1000000"]
    tiny += ["--minutes", "0.5", "--device", "cpu"]
    with torch.compiler.set_stance("force_eager"):  # the evaluation that it times would compile
        code, out, _ = run(capsys, "condense", *flags, *tiny)
    document = json.loads(out)
    assert code == 0
    assert document["seconds_in_all"] <= 30
    assert 1 <= document["recipe"]["steps"] < 1_000_000


def test_a_number_among_settings_has_six_digits(capsys: pytest.CaptureFixture[str]) -> None:
    for ipc, rate in (("3", "0.743269"), ("10", "2.47756")):
        assert f"lr={rate} " in run(capsys, "recipes", "best", "--ipc", ipc)[1]


def test_doctor_measures_the_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = standard.images_a_second
    monkeypatch.setattr(standard, "images_a_second", lambda: measure(0.1, "convnet-d1-w8"))
    told = json.loads(run(capsys, "doctor", "--json")[1])
    assert "digits" in told["data"]
    assert told["images a second"] > 0
    assert "min" in told["a standard run"] or "h" in told["a standard run"]


def test_compiling_says_nothing_of_a_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, warned = "torch.utils.cpp_extension", list[logging.LogRecord]()
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", warned.append)
    monkeypatch.setenv("CUDA_HOME", str(ROOT))
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delitem(sys.modules, name, raising=False)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        Compiled(lambda images: images)
        assert not warned
        importlib.reload(sys.modules[name])  # outside of our code nothing has changed
        assert "No CUDA runtime is found" in warned[0].getMessage()
    finally:
        logger.removeHandler(handler)
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_watch_serves_the_curves_to_this_machine_until_it_is_stopped(made: Path) -> None:
    command = [sys.executable, ROOT / "cli.py", "watch", str(made)]
    told = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=told) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        try:
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=60) as page:
                assert page.status == 200
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_watch_needs_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "watch", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no curves" in err
