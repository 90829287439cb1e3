"""The commands as a user runs them: what they print, where, and how they end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cli
from condense import CondensedSet

ROOT = Path(__file__).parents[1]
SMALL = ["--dataset", "digits", "--recipe", "datadam", "--network", "convnet-d2-w8"]
SMALL += ["--real-batch", "8", "--steps", "4"]


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
    folder = tmp_path_factory.mktemp("runs") / "made"
    subprocess.run(
        [sys.executable, ROOT / "cli.py", "condense", *SMALL, "--ipc", "2", "--out", folder],
        check=True,
        capture_output=True,
    )
    return folder


def test_condense_leaves_what_it_says(made: Path) -> None:
    condensed = CondensedSet.load(made)
    assert (len(condensed), condensed.shape, condensed.ipc) == (20, (1, 8, 8), 2)
    record = json.loads((made / "run.json").read_text())
    assert record["job"]["recipe"]["method"]["name"] == "datadam"
    assert record["environment"]["torch"] == torch.__version__


def test_evaluate_prints_json_for_machines(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    networks = ["--network", "convnet-d2-w8", "--network", "mlp"]
    code, out, _ = run(
        capsys, "evaluate", made, *networks, "--repeats", "2", "--epochs", "2", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert set(document["networks"]) == {"convnet-d2-w8", "mlp"}
    score = document["networks"]["mlp"]
    assert len(score["accuracies"]) == 2
    assert score["mean"] == pytest.approx(sum(score["accuracies"]) / 2)
    assert score["ci95"][0] <= score["mean"] <= score["ci95"][1]
    assert document["protocol"]["epochs"] == 2


def test_evaluate_prints_a_table_for_people(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    code, out, _ = run(
        capsys, "evaluate", made, made, "--network", "mlp", "--repeats", "2", "--epochs", "1"
    )
    assert code == 0
    assert re.search(r"mlp +\d+\.\d\d %  std \d+\.\d\d  95 % interval \d+\.\d\d to \d+\.\d\d", out)


def test_choices_are_made_on_held_out_training_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    assert (
        run(
            capsys,
            "condense",
            *SMALL,
            "--ipc",
            "2",
            "--hold-out",
            "200",
            "--out",
            tmp_path / "held",
        )[0]
        == 0
    )
    code, out, _ = run(
        capsys,
        "evaluate",
        tmp_path / "held",
        "--network",
        "mlp",
        "--repeats",
        "1",
        "--epochs",
        "1",
        "--json",
    )
    assert json.loads(out)["tested_on"] == "200 held-out training images of digits"
    code, _, errors = run(
        capsys, "evaluate", made, "--dataset", "digits", "--hold-out", "200", "--network", "mlp"
    )
    assert code == 2
    assert "made from digits with content" in errors


def test_the_recipe_best_is_condensed_shown_and_evaluated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "best"
    options = [
        "--set",
        "pool=1",
        "--set",
        "pool_steps=3",
        "--set",
        "calibration=1",
        "--set",
        "soft_labels=true",
    ]
    assert (
        run(capsys, "condense", *SMALL, "--recipe", "best", *options, "--ipc", "2", "--out", out)[0]
        == 0
    )
    told = json.loads(run(capsys, "show", out, "--json")[1])
    assert (told["images"], told["formation"], told["labels"], told["ipc"]) == (20, 2, "soft", 2)
    assert (
        run(capsys, "evaluate", out, "--network", "mlp", "--repeats", "1", "--epochs", "1")[0] == 0
    )
    assert run(capsys, "export", out, "--format", "npz", "--out", tmp_path / "set.npz")[0] == 0
    code, _, errors = run(
        capsys,
        "condense",
        *SMALL,
        "--ipc",
        "2",
        "--set",
        "calibration=1",
        "--out",
        tmp_path / "wrong",
    )
    assert (code, errors.count("\n")) == (2, 1)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("method", ["random", "kcenter"])
def test_select_makes_a_set_that_evaluates(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, method: str
) -> None:
    flags = ["--dataset", "digits", "--ipc", "3", "--method", method, "--out", tmp_path / "set"]
    assert run(capsys, "select", *flags)[0] == 0
    assert (
        run(
            capsys,
            "evaluate",
            tmp_path / "set",
            "--network",
            "mlp",
            "--repeats",
            "1",
            "--epochs",
            "1",
        )[0]
        == 0
    )
    code, _, errors = run(capsys, "select", *flags)
    assert (code, "already holds a run" in errors) == (2, True)


def test_show_tells_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    code, out, _ = run(capsys, "show", made, "--json", "--grid", tmp_path / "grid.png")
    assert code == 0
    assert json.loads(out)["ipc"] == 2
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_export_and_import_give_the_pixels_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    for kind, name in (("npz", "set.npz"), ("pt", "set.pt"), ("folder", "pictures")):
        assert run(capsys, "export", made, "--format", kind, "--out", tmp_path / name)[0] == 0
        flags = [
            "--dataset",
            "digits",
            "--preprocess",
            "standard",
            "--out",
            tmp_path / f"from {kind}",
        ]
        assert run(capsys, "import", tmp_path / name, *flags)[0] == 0
        imported = CondensedSet.load(tmp_path / f"from {kind}")
        assert torch.equal(imported.pixels(), CondensedSet.load(made).pixels())


def test_data_lists_and_verifies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "data", "--list", "--json")
    assert code == 0
    assert {"digits", "cifar10", "imagewoof"} <= set(json.loads(out))
    assert run(capsys, "data", "--dataset", "digits", "--verify")[0] == 0
    code, _, errors = run(
        capsys, "data", "--dataset", "cifar10", "--data-dir", tmp_path, "--verify"
    )
    assert code == 2
    assert "cifar-10-batches-py" in errors


def test_dry_run_prints_the_recipe_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--ipc", "2", "--power", "2", "--out", tmp_path / "run", "--dry-run", "--json"]
    with torch.compiler.set_stance("force_eager"):  # the evaluation that it times would compile
        code, out, _ = run(capsys, "condense", *SMALL, *flags)
    document = json.loads(out)
    assert code == 0
    assert document["recipe"]["method"]["power"] == 2.0
    assert document["seconds_in_all"] >= 0
    assert document["seconds_of_the_evaluation"] > 0
    assert not (tmp_path / "run").exists()


def test_a_config_file_is_the_flags(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'dataset = "digits"\nrecipe = "datadam"\nnetwork = "convnet-d2-w8"\nreal-batch = 8\n'
        "steps = 4\nipc = 2\n"
    )
    assert run(capsys, "condense", "--config", config, "--out", tmp_path / "run")[0] == 0
    assert CondensedSet.load(tmp_path / "run").fingerprint == CondensedSet.load(made).fingerprint
    config.write_text("real_batch = 2\nreal-batch = 3\n")
    code, _, errors = run(capsys, "condense", "--config", config, "--out", tmp_path / "other")
    assert (code, "`real-batch` occurs twice" in errors) == (2, True)
    config.write_text("stepz = 4\n")
    code, _, errors = run(capsys, "condense", "--config", config, "--out", tmp_path / "other")
    assert (code, "did you mean `steps`" in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["condense", "--dataset", "digts", "--out", "x"], "did you mean `digits`"),
        (["condense", "--out", "x"], "--dataset is missing"),
        (["condense", "--dataset", "digits"], "--out is missing"),
        (
            ["condense", "--dataset", "digits", "--recipe", "papre", "--out", "x"],
            "did you mean `paper`",
        ),
        (
            ["condense", "--dataset", "digits", "--method", "datadom", "--out", "x"],
            "did you mean `datadam`",
        ),
        (
            ["condense", "--dataset", "digits", "--network", "convnot", "--out", "x"],
            "did you mean `convnet`",
        ),
        (
            ["condense", "--dataset", "digits", "--augment", "dsaa", "--out", "x"],
            "did you mean `dsa`",
        ),
        (
            ["condense", "--dataset", "digits", "--preprocess", "zac", "--out", "x"],
            "did you mean `zca`",
        ),
        (
            ["condense", "--dataset", "digits", "--init", "kcentre", "--out", "x"],
            "did you mean `kcenter`",
        ),
        (
            ["condense", "--dataset", "digits", "--ipc", "500", "--out", "x"],
            "ipc 500 in formation 2 starts from 2000 images a class",
        ),
        (["condense", "--dataset", "digits", "--set", "lr", "--out", "x"], "must be KEY=VALUE"),
        (["condense", "--dataset", "digits", "--set", "lrr=1", "--out", "x"], "did you mean `lr`"),
        (
            ["condense", "--dataset", "digits", "--method", "dm", "--power", "2", "--out", "x"],
            "unknown setting of dm `power`",
        ),
        (
            ["condense", "--dataset", "digits", "--device", "tpu", "--out", "x"],
            "must be auto, cpu or cuda",
        ),
        (
            ["condense", "--dataset", "digits", "--storage", "float8", "--out", "x"],
            "unknown storage",
        ),
        (["condense", "--dataset", "digits", "--steps", "many"], "'many' is not a valid integer"),
        (["condense", "--dataset", "cifar10", "--data-dir", "nowhere", "--out", "x"], "nowhere"),
        (["condense", "--resume", "nowhere"], "holds no run"),
        (["condense", "--resume", "nowhere", "--minutes", "1"], "--minutes cannot change in a run"),
        (
            ["select", "--dataset", "digits", "--device", "tpu", "--out", "x"],
            "must be auto, cpu or cuda",
        ),
        (["evaluate", "nowhere", "--real-accuracy", "90"], "`real_accuracy` is 90.0"),
        (["evaluate", "nowhere"], "no condensed set at nowhere"),
        (["show", "pyproject.toml"], "not a .safetensors file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]


def test_a_set_of_other_classes_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    import numpy as np

    images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9) % 3
    np.savez(
        tmp_path / "own.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    code, _, errors = run(capsys, "evaluate", made, "--dataset", tmp_path / "own.npz")
    assert code == 2
    assert "classes" in errors


def test_a_truncated_set_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    (tmp_path / "set.safetensors").write_bytes((made / "set.safetensors").read_bytes()[:-100])
    code, _, errors = run(capsys, "show", tmp_path)
    assert code == 2
    assert "damaged" in errors


def test_work_on_digits_leaves_heavy_libraries_alone(made: Path, tmp_path: Path) -> None:
    """To import them takes longer than small work itself. `torch._dynamo` is PyTorch's compiler."""
    heavy = "avalanche kornia matplotlib pandas ray scipy.stats sklearn sympy torchvision"
    heavy += " torch._dynamo"
    code = (
        "import sys, cli\n"
        "cli.main()\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    flags = ["--network", "convnet-d2-w8", "--network", "mlp", "--epochs", "1", "--repeats", "2"]
    for command in (["condense", *SMALL, "--out", tmp_path / "run"], ["evaluate", made, *flags]):
        told = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert told.splitlines()[-1] == "[]"


def test_a_pool_made_ahead_is_the_one_a_run_finds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pools = tmp_path / "pools"
    tiny = ["network=convnet-d2-w8", "pool=2", "pool_epochs=1", "real_batch=8", "steps=2"]
    flags = ["--recipe", "dance", "--dataset", "digits", "--device", "cpu"]
    flags += [f"--set={setting}" for setting in tiny]
    code, out, _ = run(capsys, "pool", *flags, "--out", pools, "--json")
    assert (code, json.loads(out)["networks"]) == (0, 2)
    before = {path: path.stat().st_mtime_ns for path in pools.glob("*/network-*")}
    assert len(before) == 2
    run(capsys, "condense", *flags, "--ipc", "1", "--pools", pools, "--out", tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in pools.glob("*/network-*")} == before
    assert (tmp_path / "run" / "set.safetensors").exists()
    assert not (tmp_path / "run" / "pool").exists()
    code, _, told = run(capsys, "pool", "--recipe", "paper", *flags[2:4], "--out", pools)
    assert code == 2
    assert "recipe `paper` has no pool" in told


def test_evaluate_tells_scores_that_stand_beside_random_images(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--network", "mlp", "--epochs", "2", "--repeats", "2", "--device", "cpu"]
    asked = ["evaluate", str(made), *flags, "--scores", "--real-accuracy", "0.9", "--json"]
    code, out, _ = run(capsys, *asked)
    found = json.loads(out)
    assert code == 0
    assert set(found["scores"]) == {"LRS", "ARS"}
    assert all(0 <= one["value"] <= 1 for one in found["scores"].values())
    code, _, err = run(capsys, *asked[:-2], "90")
    assert (code, "`real_accuracy` is 90.0: it must be in [0, 1]" in err) == (2, True)
