"""`condensekit evaluate` on run folders: killed, stopped, extended; and what `show` tells."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from condense.errors import UserError
from condense.runs.evaluations import FILE_NAME
from condense.sets.condensed import CondensedSet
from condense.study.interrupt import Interrupted
from condense.study.trials import Trials

QUICK = ["--network", "convnet-d2-w8", "--epochs", "5", "--device", "cpu", "--threads", "1"]
LONG = [*QUICK, "--network", "mlp", "--epochs", "100", "--repeats", "8"]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """Two folders of selected sets, which nothing was measured of."""
    folder = tmp_path_factory.mktemp("selected")
    for seed in (0, 1):
        flags = ["--dataset", "digits", "--ipc", "2", "--seed", seed, "--device", "cpu"]
        invoke("select", *flags, "--out", folder / f"seed{seed}")
    return folder


@pytest.fixture
def runs(selected, tmp_path):
    """The same, to be measured in one test."""
    shutil.copytree(selected, tmp_path / "runs")
    return [tmp_path / "runs" / f"seed{seed}" for seed in (0, 1)]


def invoke(*arguments):
    result = CliRunner().invoke(cli.cli, [*map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


def evaluated(*arguments):
    return json.loads(invoke("evaluate", *arguments, "--json"))


def accuracies(document):
    return {name: score["accuracies"] for name, score in document["networks"].items()}


def kept(run):
    with Trials(run / FILE_NAME) as store:
        return len(store)


def test_each_set_is_measured_into_its_own_folder_and_never_twice(runs, monkeypatch):
    first = evaluated(*runs, *QUICK, "--repeats", "2")
    assert [kept(run) for run in runs] == [2, 2]
    assert (first["done"], first["total"]) == (4, 4)
    extended = evaluated(*runs, *QUICK, "--repeats", "3")
    assert [kept(run) for run in runs] == [3, 3]
    (values,), (before,) = accuracies(extended).values(), accuracies(first).values()
    assert (values[:2], values[3:5]) == (before[:2], before[2:])
    monkeypatch.setattr("condense.training.evaluate.Evaluation.run", None)  # training would fail
    assert evaluated(*runs, *QUICK, "--repeats", "3") == extended
    assert evaluated(runs[0] / "set.safetensors", *QUICK, "--repeats", "3")["done"] == 3


def test_show_lists_what_was_measured(runs):
    measured = evaluated(runs[0], *QUICK, "--repeats", "3")
    held_out = ["--dataset", "digits", "--network", "mlp", "--epochs", "5", "--repeats", "1"]
    evaluated(runs[0], *held_out, "--protocol", "datadam-code")
    text = invoke("show", runs[0])
    assert (
        "3 networks by dm with augment dsa-noflip, epochs 5, on 362 test images of digits" in text
    )
    assert "1 network by datadam-code with augment dsa-noflip, epochs 5" in text
    rows = json.loads(invoke("show", runs[0], "--json"))["evaluations"]
    (row,) = [row for row in rows if row["network"] == "convnet-d2-w8-instance-relu-avg"]
    score = measured["networks"]["convnet-d2-w8"]
    assert {name: row[name] for name in score} == score
    assert (row["protocol"]["epochs"], row["tested_on"]) == (5, "362 test images of digits")
    assert json.loads(invoke("show", runs[1], "--json"))["evaluations"] == []


def test_show_tells_held_out_images_from_test_images(tmp_path):
    flags = ["--dataset", "digits", "--hold-out", "100", "--ipc", "1", "--out", tmp_path / "run"]
    invoke("select", *flags)
    evaluated(tmp_path / "run", *QUICK, "--repeats", "1")
    assert "on 100 held-out training images of digits" in invoke("show", tmp_path / "run")


def test_what_is_given_of_the_dataset_counts_also_where_the_run_names_it(runs):
    for given, words in (
        (["--hold-out", "100"], "made from digits with content"),
        (["--hold-out", "-1"], "`hold_out` is -1"),
        (["--resolution", "16"], r"\(1, 16, 16\)"),
        (["--resolution", "0"], "`resolution` is 0"),
        (["--dataset", ""], "an empty text is not a path"),
    ):
        with pytest.raises(UserError, match=words):
            invoke("evaluate", runs[0], *QUICK, *given)


def test_show_tells_nothing_of_another_set_in_the_folder(runs):
    evaluated(runs[0], *QUICK, "--repeats", "1")
    CondensedSet.load(runs[1]).save(runs[0])
    assert json.loads(invoke("show", runs[0], "--json"))["evaluations"] == []


def test_nothing_is_written_beside_a_bare_file_but_where_a_store_is_named(runs, tmp_path):
    bare = tmp_path / "bare" / "some.safetensors"
    CondensedSet.load(runs[0]).save(bare)
    flags = [bare, "--dataset", "digits", *QUICK, "--repeats", "2"]
    document = evaluated(*flags)
    assert [path.name for path in bare.parent.iterdir()] == ["some.safetensors"]
    store = tmp_path / "all.sqlite"
    assert evaluated(*flags, "--store", store) == document
    both = evaluated(
        bare, runs[1], "--dataset", "digits", *QUICK, "--repeats", "2", "--store", store
    )
    with Trials(store) as trials:
        assert len(trials) == both["done"] == 4
    assert not (runs[1] / FILE_NAME).exists()


def test_a_damaged_store_is_one_line(runs):
    (runs[0] / FILE_NAME).write_bytes(b"no database" * 100)
    for command in (["evaluate", runs[0], *QUICK], ["show", runs[0]]):
        with pytest.raises(UserError, match=rf"`{runs[0] / FILE_NAME}` cannot be used as a store"):
            invoke(*command)


def test_at_the_end_of_the_time_it_says_what_is_left(runs):
    text = invoke("evaluate", *runs, *LONG, "--minutes", "0.000001")
    assert "note: still to be trained: 32 of 32 networks" in text
    assert text.rstrip().endswith("; the same command goes on")
    document = evaluated(*runs, *LONG, "--minutes", "0.000001")
    assert (document["networks"], document["done"], document["total"]) == ({}, 0, 32)


def command(*arguments):
    """The command of the user, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "cli.py", "evaluate", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(count, runs, process):
    while sum(kept(run) for run in runs if (run / FILE_NAME).exists()) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again_it_ends_as_if_undisturbed(runs, tmp_path, workers):
    expected = evaluated(*runs, *LONG, "--store", tmp_path / "undisturbed.sqlite")
    moments = random.Random(workers)
    for count in (3, 17):
        with command(*runs, *LONG, "--workers", workers) as process:
            wait_for(count, runs, process)
            time.sleep(moments.uniform(0, 0.3))  # in the middle of a network, or of writing one
            process.kill()
    finished = [kept(run) for run in runs]
    assert 17 <= sum(finished) < 32, finished
    with command(*runs, *LONG, "--workers", workers, "--json") as process:
        document = json.loads(process.communicate()[0])
    assert document == expected


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(runs):
    with command(*runs, *LONG) as process:
        wait_for(1, runs, process)
        process.send_signal(signal.SIGINT)
        told = process.communicate()[1]
    assert process.returncode == 130
    assert "of 32; the same command goes on" in told


def test_ctrl_c_on_a_bare_file_says_that_nothing_is_kept(runs, tmp_path, monkeypatch):
    bare = tmp_path / "some.safetensors"
    CondensedSet.load(runs[0]).save(bare)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("condense.training.evaluate.Evaluation.run", interrupted)
    with pytest.raises(Interrupted, match="keeps nothing: name a file by --store to go on"):
        invoke("evaluate", bare, "--dataset", "digits", *QUICK)
