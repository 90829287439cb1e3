"""The `nas` command as a user runs it: what it prints, what it leaves, and how it refuses."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
from condense import load_dataset
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from nas.spaces import convnet720 as convnet_space
from nas.spaces import nasbench201

ROOT = Path(__file__).parents[2]
SMALL = [
    "--dataset",
    "digits",
    "--held-out",
    "50",
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
]
CELLS = [
    *SMALL,
    "--space",
    "nasbench201",
    "--sample",
    "4",
    "--set",
    "cells=1",
    "--set",
    "width=4",
    "--proxy",
    "random:2",
]
GRID = [*SMALL, "--space", "convnet720", "--sample", "2", "--set", "augment=none"]


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    monkeypatch.setattr(sys, "argv", ["cli.py", "nas", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def _truth(path: Path) -> Path:
    """A reference of the four cells that are sampled."""
    rows = [
        [index, nasbench201.architecture(index).name, 80.0 + place]
        for place, index in enumerate(nasbench201.sample(4))
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["index", "arch", "digits_test"], *rows])
    return path


@pytest.mark.slow
def test_a_search_from_start_to_end(tmp_path: Path) -> None:
    """In processes of its own, with a worker, as from a shell.

    Broken off, looked at, gone on with.
    """
    command = [sys.executable, str(ROOT / "cli.py"), "nas"]
    threads = ["--workers", "1", "--threads", "1"]
    begun = subprocess.run(
        [*command, *CELLS, *threads, "--reference", str(_truth(tmp_path / "truth.csv")),
         "--minutes", "0.0001", "--out", "runs/a"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert re.match("[0-7] of 8 trainings done", begun.stdout)
    assert " of 8 trainings; resume the search" in begun.stdout
    ended = subprocess.run(
        [*command, "--resume", "runs/a", *threads],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("8 of 8 trainings done")
    assert "nasbench201: 8/8" in ended.stderr
    lines = ended.stdout.splitlines()
    (heading,) = [
        at
        for at, line in enumerate(lines)
        if line.startswith("agreement with the true test accuracy of 4")
    ]
    assert lines[heading + 1].split()[:2] == ["score", "Spearman"]
    # A score that ranks the four as another does is shown once.
    assert {"random:2", "free", "parameters", "naswot"} <= {
        line.split()[0] for line in lines[heading + 2 : heading + 11]
    }
    (best,) = [
        at for at, line in enumerate(lines) if line.startswith("the best by random:2 summed_loss")
    ]
    assert lines[best + 2].split()[0] == "1"
    assert lines[best + 2].split()[-1].startswith("|")  # the cell
    assert {
        "ranking.csv",
        "ranking.json",
        "report.html",
        "indices.txt",
        "search.json",
        "trials.sqlite",
    } <= {path.name for path in (tmp_path / "runs" / "a").iterdir()}


def test_json_is_one_document_and_show_repeats_it(capsys, monkeypatch, tmp_path: Path) -> None:
    code, out, errors = run(
        capsys, monkeypatch, *CELLS, "--by", "flops", "--out", tmp_path / "run", "--json"
    )
    assert code == 0
    assert errors.startswith("nasbench201: ")  # the progress
    found = json.loads(out)
    assert (found["done"], found["total"], found["ranked_by"]) == (8, 8, "flops")
    flops = [row["flops"] for row in found["architectures"]]
    assert flops == sorted(flops, reverse=True)
    assert (
        "nas reference --space nasbench201 --dataset digits" in found["notes"][0]
    )  # no reference for digits, and how to get one
    assert (
        json.loads(Path(found["files"][1]).read_text())["architectures"] == found["architectures"]
    )
    assert json.loads(run(capsys, monkeypatch, "show", tmp_path / "run", "--json")[1]) == found
    code, out, _ = run(capsys, monkeypatch, "show", tmp_path / "run")
    assert code == 0
    assert "note: no reference for digits" in out


def test_a_reference_is_trained_and_judges_a_search(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        convnet_space, "sample", lambda count, seed: [0, 1]
    )  # those that cost least
    code, out, _ = run(
        capsys, monkeypatch, "reference", *GRID, "--images", "40", "--out", tmp_path / "truth"
    )
    assert code == 0
    assert out.splitlines() == [
        "2 of 2 trainings done",
        "",
        str(tmp_path / "truth" / "reference.csv"),
    ]
    table = ["--reference", tmp_path / "truth" / "reference.csv"]
    code, out, _ = run(
        capsys,
        monkeypatch,
        *GRID,
        "--proxy",
        "random:1",
        *table,
        "--out",
        tmp_path / "run",
        "--json",
    )
    found = json.loads(out)
    truths = {row["arch"]: row["truth"] for row in found["architectures"]}
    told = {
        row["arch"]: float(row["digits_test"])
        for row in csv.DictReader((tmp_path / "truth" / "reference.csv").read_text().splitlines())
    }
    assert truths == pytest.approx({name: percent / 100 for name, percent in told.items()})
    assert found["agreement"]["random:1 accuracy"]["architectures"] == 2
    code, out, _ = run(capsys, monkeypatch, "--resume", tmp_path / "truth", "--json")
    assert json.loads(out)["done"] == 2


def test_flags_come_from_a_file(capsys, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "nas.toml").write_text(
        'dataset = "digits"\nspace = "nasbench201"\nsample = "2"\nheld-out = 50\n'
        "seeds = 1\nepochs = 1\nworkers = 0\n"
        'set = ["cells=1", "width=4"]\nproxy = ["random:1"]\nminutes = 5\n'
    )
    code, out, _ = run(
        capsys, monkeypatch, "--config", tmp_path / "nas.toml", "--out", tmp_path / "run", "--json"
    )
    assert code == 0
    assert json.loads(out)["total"] == 4
    plan = json.loads((tmp_path / "run" / "search.json").read_text())["plan"]
    assert (
        plan["regime"]["sizes"]["cells"],
        plan["regime"]["sizes"]["width"],
        plan["regime"]["protocol"]["epochs"],
    ) == (1, 4, 1)


def test_the_recommended_average_can_rank(capsys, monkeypatch, tmp_path: Path) -> None:
    by = "random:2 summed_loss + parameters + synflow + naswot"
    flags = ["--reference", _truth(tmp_path / "truth.csv"), "--out", tmp_path / "run"]
    code, out, _ = run(capsys, monkeypatch, *CELLS, "--by", by, *flags)
    assert code == 0
    assert f"the best by {by}" in out
    assert any(line.startswith(f"{by} ") for line in out.splitlines())  # with its agreement
    code, out, _ = run(capsys, monkeypatch, "show", tmp_path / "run", "--json")
    assert json.loads(out)["ranked_by"] == by


def test_indices_from_a_file_and_a_restricted_space(capsys, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "chosen.txt").write_text("5\n7\n")
    flags = [
        "--space",
        "nasbench201",
        "--set",
        "cells=1",
        "--set",
        "width=4",
        "--proxy",
        "random:1",
    ]
    chosen = ["--indices", tmp_path / "chosen.txt", "--out", tmp_path / "cells", "--json"]
    code, out, _ = run(capsys, monkeypatch, *SMALL, *flags, *chosen)
    assert code == 0
    assert {row["index"] for row in json.loads(out)["architectures"]} == {5, 7}
    # 8 px are too small for ConvNets that pool four times.
    grid = ["--depth", "1,2", "--width", "32", "--pooling", "none", "--out", tmp_path / "grid"]
    code, out, _ = run(capsys, monkeypatch, *GRID, "--proxy", "random:1", *grid, "--json")
    assert code == 0
    for row in json.loads(out)["architectures"]:
        assert re.match(r"convnet-d[12]-w32-.*-none$", row["arch"])


@pytest.mark.parametrize(
    ("side", "given", "expected"), [(32, [], 16), (32, ["--resolution", "8"], 8)]
)
def test_large_images_are_shrunk_to_what_was_measured(
    capsys, monkeypatch, tmp_path: Path, side, given, expected
) -> None:
    draws = np.random.default_rng(0)
    arrays = {
        f"{split}_{part}": draws.integers(256 if part == "images" else 3, size=shape).astype(
            "uint8"
        )
        for split, count in (("train", 90), ("val", 9), ("test", 9))
        for part, shape in (("images", (count, side, side, 3)), ("labels", (count, 1)))
    }
    np.savez(tmp_path / "large.npz", **arrays)
    flags = ["--space", "nasbench201", "--indices", tmp_path / "one.txt", "--proxy", "random:1"]
    (tmp_path / "one.txt").write_text("5\n")
    flags += ["--dataset", tmp_path / "large.npz", "--seeds", "1", "--epochs", "1", *given]
    where = ["--workers", "0", "--device", "cpu", "--out", tmp_path / "run"]
    assert run(capsys, monkeypatch, *flags, *where)[0] == 0
    plan = json.loads((tmp_path / "run" / "search.json").read_text())["plan"]
    assert plan["source"]["resolution"] == expected
    assert plan["regime"]["sizes"] == {"cells": 1, "width": 8}
    assert run(capsys, monkeypatch, "--resume", tmp_path / "run", "--workers", "0")[0] == 0


def test_a_process_of_a_search_has_one_thread(monkeypatch) -> None:
    given = []
    monkeypatch.setattr("condense.study.workers.cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("nas.search.search", lambda *args, workers, **how: given.append(workers))
    monkeypatch.setattr("nas.command._tell", lambda *args: None)
    flags = ["--space", "nasbench201", "--dataset", "digits", "--workers"]
    for workers in ("0", "1", "2"):
        monkeypatch.setattr(sys, "argv", ["cli.py", "nas", *flags, workers])
        cli.main()
    assert [one.threads_each() for one in given] == [1, 1, 1]


def test_an_architecture_by_index_or_name(capsys, monkeypatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "arch", "6111", "--space", "nasbench201", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["name"] == nasbench201.architecture(6111).name
    assert told["parameters"] == nasbench201.architecture(6111).parameters()
    assert set(told) == {"space", "index", "name", "parameters", "flops", "isomorph"}
    assert (
        json.loads(
            run(capsys, monkeypatch, "arch", told["name"], "--space", "nasbench201", "--json")[1]
        )
        == told
    )
    code, out, _ = run(
        capsys, monkeypatch, "arch", "convnet-d3-w128-instance-relu-avg", "--space", "convnet720"
    )
    assert code == 0
    assert dict(line.split() for line in out.splitlines())["parameters"] == "320010"


def test_a_diverging_candidate_is_scored_and_flagged(capsys, monkeypatch, tmp_path: Path) -> None:
    code, out, _ = run(
        capsys, monkeypatch, *CELLS, "--epochs", "3", "--set", "lr=1e30", "--out", tmp_path / "run"
    )
    assert code == 0
    assert "4 trainings of 4 architectures diverged" in out
    assert out.count("  diverged  ") == 4


def test_help_teaches(capsys, monkeypatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "--help")
    assert code == 0
    for taught in (
        "nas --resume",
        "nas show",
        "nas arch 6111",
        "--proxy",
        "--cluster",
        "ray://HOST:PORT",
        "reference",
        "convert",
    ):
        assert taught in out


BAD = [
    ([], "--space is missing"),
    (["--space", "nasbench"], "did you mean `nasbench201`"),
    (["arch", "6111"], "--space is missing"),
    (["arch", "15625", "--space", "nasbench201"], "indices are 0 to 15624"),
    (
        [
            "arch",
            "|nor_conv_3x4~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            "--space",
            "nasbench201",
        ],
        "is `|nor_conv_3x3~0|+",
    ),
    (["arch", "convnet-d9", "--space", "convnet720"], "unknown ConvNet"),
    (["--space", "nasbench201", "arch", "6111"], "--space stands before `arch`"),
    (["show", "nowhere"], "holds no search"),
    (["--resume", "nowhere"], "holds no search"),
    (["--resume", "nowhere", "--sample", "9"], "--sample cannot change"),
    (["convert", "official.pth"], "--trust-pickle"),
    (["lift"], "unknown command `lift`"),
    ([*CELLS, "--proxy", "randon"], "unknown proxy `randon`"),
    ([*CELLS, "--by", "random accuracy"], "did you mean `random:2 accuracy`"),
    ([*CELLS, "--by", "flops + flop"], "did you mean `flops`"),
    ([*CELLS, "--by", "flops + flops"], "names a column twice"),
    ([*CELLS, "--sample", "top20:2"], "needs a --reference with `digits_test`"),
    ([*CELLS, "--indices", "x.txt"], "--sample and --indices are two ways"),
    ([*CELLS, "--depth", "1"], "nasbench201 has no factor `depth`"),
    ([*CELLS, "--truth", "cifar100_test"], "is a column of a table"),
    ([*CELLS, "--sample", "15626"], "ask for 1 to 15625"),
    ([*CELLS, "--seeds", "0"], "`seeds` is 0"),
    ([*CELLS, "--set", "lr"], "must be KEY=VALUE"),
    ([*CELLS, "--set", "lr=fast"], "`lr` is 'fast': it must be a number"),
    ([*CELLS, "--set", "depth=3"], "unknown setting of a regime: `depth`"),
    ([*CELLS, "--epochs", "-1"], "`epochs` is -1"),
    ([*CELLS, "--workers", "-1"], "--workers -1"),
    ([*CELLS, "--device", "tpu"], "--device"),
    ([*CELLS, "--reference", "nowhere.csv"], "nowhere.csv does not exist"),
    ([*CELLS, "--cluster", "localhost:6379"], "ray://HOST:PORT, auto or local"),
    ([*CELLS, "--dataset", "cifar1O"], "did you mean `cifar10`"),
    ([*CELLS, "--held-out", "99999"], "99999"),
    ([*GRID, "--set", "cells=1"], "unknown setting of a regime: `cells`"),
    ([*GRID, "--sample", "720"], "needs images of at least 16 px"),
    (
        ["reference", *GRID, "--resolution", "16", "--images", "4"],
        "10 classes need at least 10 images",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
    capsys, monkeypatch, tmp_path: Path, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, errors = run(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_belongs_elsewhere_is_refused(capsys, monkeypatch, tmp_path: Path) -> None:
    """A reference of another space or with gaps, a proxy of other images, a store that is none."""
    digits, out = load_dataset("digits"), tmp_path / "run"
    truth = _truth(tmp_path / "truth.csv")
    few = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    few.save(tmp_path / "digits")
    (tmp_path / "other.sqlite").write_text("no database at all, and long enough to be looked at")
    for arguments, message in (
        ([*GRID, "--reference", truth], "is a reference for nasbench201, not for convnet720"),
        ([*CELLS, "--sample", "6", "--reference", truth], "has no `digits_test` for 2 of 6"),
        (
            [*CELLS, "--resolution", "16", "--proxy", tmp_path / "digits"],
            "has images of shape (1, 8, 8), digits has (1, 16, 16)",
        ),
        ([*CELLS, "--store", tmp_path / "other.sqlite"], "cannot be used as a store"),
    ):
        code, _, errors = run(capsys, monkeypatch, *arguments, "--out", out)
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
        assert not out.exists()


def test_a_store_of_another_version_is_refused(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("condense.study.trials.VERSION", 3)
    assert (
        run(capsys, monkeypatch, *CELLS, "--minutes", "0.0001", "--out", tmp_path / "new")[0] == 0
    )
    monkeypatch.undo()
    code, _, errors = run(capsys, monkeypatch, "show", tmp_path / "new")
    assert code == 2
    assert "store of version 3, this program writes version 2" in errors


def test_without_ray_the_cluster_is_refused(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    code, _, errors = run(
        capsys, monkeypatch, *CELLS, "--cluster", "auto", "--out", tmp_path / "run"
    )
    assert (code, errors.count("\n")) == (2, 1)
    assert "pip install condensekit[cluster]" in errors
    assert not (tmp_path / "run").exists()
