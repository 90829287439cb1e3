"""A continual run that is killed, stopped, limited in time or shared among workers ends as ever."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from victims import a_ray_worker, all_end, descendants

from condense.errors import UserError
from condense.study.interrupt import Interrupted
from condense.study.workers import Workers
from continual import Plan, resume, run, scratch
from continual.results import Results

ROOT = Path(__file__).parents[2]
TINY = "datadam:loss_scale=100,real_batch=8,network=convnet-d2-w16"
SCRATCH = Plan(
    steps=5,
    methods=("random", TINY),
    ipc=2,
    orders=2,
    repeats=2,
    network="convnet-d2-w16",
    epochs=40,
    batch=16,
    condense_steps=30,
    device="cpu",
)
REPLAY = dataclasses.replace(
    SCRATCH, mode="replay", strategy="er-ace", methods=("class-balanced", TINY), steps=2, epochs=1
)
PLANS = {"scratch": SCRATCH, "replay": REPLAY}
TWO = Workers(workers=2, threads=1)


@pytest.fixture(autouse=True)
def one_thread():
    """As many threads in this process as in each worker: another number rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory) -> dict[str, Results]:
    """The results of each plan, measured without a break in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    found = {name: run(digits, plan, folder / name, quiet=True) for name, plan in PLANS.items()}
    torch.set_num_threads(threads)
    return found


def command(plan: Plan, out: Path, *more: str) -> list[str]:
    """The command line that begins a run, or goes on with the one in `out`."""
    flags = ["--resume", out]
    if not (out / "plan.json").exists():
        fields = dataclasses.asdict(plan)
        flags = ["--dataset", "digits", "--out", out]
        flags += [f"--method={method}" for method in fields.pop("methods")]
        flags += [
            f"--{name.replace('_', '-')}={one}"
            for name, value in fields.items()
            for one in (value if isinstance(value, tuple) else (value,))
            if one is not None
        ]
    return [sys.executable, "cli.py", "continual", *map(str, flags), *more, "--json"]


def started(plan: Plan, out: Path, *more: str) -> subprocess.Popen:
    """A process of one thread, at the head of a group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(plan, out, *more),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen, folder: Path, pattern: str) -> None:
    """Until a file is there, or the process has ended."""
    while not list(folder.glob(pattern)) and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(("mode", "workers"), [("scratch", "2"), ("replay", "0")])
def test_a_run_killed_at_random_ends_as_an_undisturbed_one(tmp_path, undisturbed, mode, workers):
    draw, out = random.Random(f"{mode} {workers}"), tmp_path / "run"
    for reached in ("plan.json", "memories/datadam*", "trials.sqlite"):
        process = started(PLANS[mode], out, "--workers", workers, "--threads", "1")
        wait_for(process, out, reached)
        time.sleep(draw.uniform(0, 2))
        process.kill()
        process.communicate()
    process = started(PLANS[mode], out, "--workers", workers, "--threads", "1")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(output) == json.loads(json.dumps(undisturbed[mode].to_json()))


@pytest.mark.parametrize("mode", PLANS)
def test_workers_measure_what_one_process_measures(digits, tmp_path, undisturbed, mode):
    shared = run(digits, PLANS[mode], tmp_path / "run", workers=TWO, quiet=True)
    assert shared.rows == undisturbed[mode].rows
    boards = list((tmp_path / "run").glob("tensorboard/*/events.*"))
    assert len(boards) == (8 if mode == "replay" else 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("mode", PLANS)
def test_a_ray_cluster_measures_what_one_process_measures(
    digits, tmp_path, undisturbed, mode, monkeypatch
):
    ray = pytest.importorskip("ray", reason="needs condensekit[cluster]")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    try:
        workers = Workers(cluster="local", threads=1)
        shared = run(digits, PLANS[mode], tmp_path / "run", workers=workers, quiet=True)
    finally:
        ray.shutdown()
    assert shared.rows == undisturbed[mode].rows


@pytest.mark.slow
def test_on_ray_neither_a_killed_worker_nor_a_killed_run_changes_anything(digits, tmp_path):
    pytest.importorskip("ray", reason="needs condensekit[cluster]")
    plan = dataclasses.replace(SCRATCH, methods=("random",))
    expected = run(digits, plan, tmp_path / "undisturbed", quiet=True)
    out, flags = tmp_path / "run", ("--cluster", "local", "--threads", "1")
    process = started(plan, out, *flags)
    os.kill(a_ray_worker(process.pid), signal.SIGKILL)
    wait_for(process, out, "trials.sqlite")
    theirs = descendants(process.pid)
    time.sleep(random.Random("Ray").uniform(0, 2))
    process.kill()
    process.communicate()
    process = started(plan, out, *flags)
    os.kill(a_ray_worker(process.pid), signal.SIGKILL)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(output) == json.loads(json.dumps(expected.to_json()))
    assert all_end(theirs)


def test_only_what_is_not_finished_is_done_again(digits, tmp_path, undisturbed, monkeypatch):
    real, calls = scratch.train, []

    def train(*args, **options):
        calls.append(1)
        if len(calls) == 27:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(scratch, "train", train)
    with pytest.raises(Interrupted, match="stopped with 26 of 40 networks tested; go on with `con"):
        run(digits, SCRATCH, tmp_path / "cut", quiet=True)
    assert resume(tmp_path / "cut", quiet=True).rows == undisturbed["scratch"].rows
    assert len(calls) == 41  # 40 networks, and the one that was cut off


def test_ctrl_c_in_a_condensation_says_how_to_go_on_with_the_run(digits, tmp_path):
    plan = dataclasses.replace(SCRATCH, methods=(TINY,), condense_steps=2000, orders=1)
    out = tmp_path / "run"
    process = started(plan, out)
    wait_for(process, out, "memories/datadam*/run.json")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"0 of 10 networks tested; go on with `condensekit continual --resume {out}`" in errors
    assert "condense --resume" not in errors


@pytest.mark.parametrize(("workers", "seconds"), [(None, 5), (TWO, 9)])  # processes begin slowly
def test_when_the_time_is_up_what_is_finished_is_reported(
    digits, tmp_path, workers, seconds, monkeypatch
):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    long = dataclasses.replace(SCRATCH, epochs=1000, condense_steps=3)
    part = run(digits, long, tmp_path / "run", workers=workers, minutes=seconds / 60, quiet=True)
    assert 0 < part.left <= part.total == 40
    assert len(part.rows) == part.total - part.left
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left"] == part.left
    assert "Still to be tested" in (tmp_path / "run" / "report.html").read_text()
    again = resume(tmp_path / "run", minutes=1e-4, quiet=True)
    # Python drops an exception in some places: the alarm then ends the work after a task.
    assert again.rows.items() >= part.rows.items()
    assert len(again.rows) <= len(part.rows) + 1


def test_a_run_of_an_older_version_is_told_so(digits, tmp_path):
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"older version of condensekit \(rows.json\)"):
        resume(tmp_path)
    with pytest.raises(UserError, match="older version"):
        run(digits, SCRATCH, tmp_path)


def test_whether_a_network_is_compiled_does_not_depend_on_what_is_left(
    digits, tmp_path, monkeypatch
):
    """The decision counts all networks of a step, so a resumed run decides as a whole one does."""
    decisions = []
    real = scratch.accelerate

    def accelerate(network, pixels, device):
        decisions.append(pixels)
        return real(network, 0, device)

    monkeypatch.setattr(scratch, "accelerate", accelerate)
    plan = dataclasses.replace(SCRATCH, methods=("random",), epochs=1)
    run(digits, plan, tmp_path / "whole", quiet=True)
    whole, decisions[:] = list(decisions), []
    assert len(whole) == 5  # a network is built once for each step
    real_train, calls = scratch.train, []

    def train(*args, **options):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real_train(*args, **options)

    monkeypatch.setattr(scratch, "train", train)
    with pytest.raises(Interrupted):
        run(digits, plan, tmp_path / "cut", quiet=True)
    resume(tmp_path / "cut", quiet=True)
    assert decisions == [*whole[:3], *whole[2:]]
