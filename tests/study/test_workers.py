"""Tasks in this process, in worker processes and on Ray give the same trials, whoever is killed on
the way.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from condense.errors import UserError
from condense.study.trials import Key
from condense.study.workers import Workers, trials
from condense.writing import in_use, make_folder

ROOT = Path(__file__).parents[2]
TASKS = list(range(12))


@dataclass
class Squares:
    """The simplest bench: the square of a number."""

    def to(self, device: torch.device) -> "Squares":
        return self

    def key(self, task: int) -> Key:
        return Key.of("squares", number=task)

    def name(self, task: int) -> str:
        return f"the square of {task}"

    def run(self, task: int) -> dict:
        return {"square": float(torch.tensor(task) ** 2)}


class Slow(Squares):
    """So that a worker is killed in the middle of a task."""

    def run(self, task):
        time.sleep(0.3)
        return super().run(task)


class Fatal(Squares):
    """A task too large for the machine."""

    def run(self, task):
        if task == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


class Faulty(Squares):
    def run(self, task):
        raise ZeroDivisionError("a fault of ours")


@dataclass
class Writing(Squares):
    """Tasks that write into the folder of the run: all but the first one after it was removed."""

    folder: Path

    def run(self, task):
        while task > 1 and self.folder.exists():
            time.sleep(0.01)
        make_folder(self.folder / "curves")
        return super().run(task)


class Surroundings(Squares):
    """What a worker finds around it."""

    def run(self, task):
        names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        return {name: os.environ.get(name, "") for name in names} | {
            "threads": torch.get_num_threads()
        }


def _comparable(found) -> dict:
    return {trial.key: replace(trial, seconds=0, host="") for trial in found}


@pytest.fixture(scope="module")
def expected():
    return _comparable(trials(Squares(), TASKS, Workers(workers=0, device="cpu")))


def test_two_processes_do_what_one_does_though_one_is_killed(expected):
    running = trials(Slow(), TASKS, Workers(workers=2, threads=1, device="cpu"))
    found = [next(running)]
    victims = multiprocessing.active_children()
    assert len(victims) == 2
    os.kill(victims[0].pid, signal.SIGKILL)
    found += running
    assert len(found) == len(TASKS)
    assert _comparable(found) == expected
    assert not multiprocessing.active_children()


def test_a_task_that_always_kills_its_worker_is_named():
    running = trials(Fatal(), TASKS, Workers(workers=1, threads=1, device="cpu"))
    with pytest.raises(UserError, match="the workers at the square of 2 died 3 times"):
        list(running)
    assert not multiprocessing.active_children()


def test_a_fault_in_a_worker_is_raised_here():
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        list(trials(Faulty(), TASKS, Workers(workers=1, threads=1, device="cpu")))


def test_a_worker_does_not_make_a_removed_folder_anew(tmp_path):
    folder, workers = tmp_path / "run", Workers(workers=1, threads=1, device="cpu")
    with in_use(folder), closing(trials(Writing(folder), [1, 2], workers)) as running:
        next(running)
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="was removed while a run worked in it"):
            next(running)
        with pytest.raises(UserError, match="was removed while a run worked in it"):
            list(trials(Writing(folder), [3], workers))  # by a worker that never saw the folder
    assert not folder.exists()


def test_closing_stops_the_workers():
    running = trials(Slow(), TASKS, Workers(workers=1, threads=1, device="cpu"))
    next(running)
    running.close()
    assert not multiprocessing.active_children()


def test_nothing_to_do_starts_nothing():
    assert list(trials(Squares(), [], Workers(device="cpu"))) == []
    assert not multiprocessing.active_children()


def test_threads_of_workers_are_few_and_sleep_while_they_wait(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    (trial,) = trials(Surroundings(), [1], Workers(workers=1, threads=1, device="cpu"))
    assert trial.result == {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": trial.result["GOMP_SPINCOUNT"],
        "threads": 1,
    }
    assert os.environ.get("OMP_WAIT_POLICY") is None  # this process keeps its own
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    (trial,) = trials(Surroundings(), [1], Workers(workers=1, threads=1, device="cpu"))
    assert trial.result["OMP_WAIT_POLICY"] == "ACTIVE"
    assert trial.result["GOMP_SPINCOUNT"] == ""


def test_a_worker_takes_its_share_of_the_cores_or_what_the_user_allows(monkeypatch):
    monkeypatch.setattr("condense.study.workers.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Workers(workers=2, device="cpu").threads_each() == 4
    assert Workers(workers=16, device="cpu").threads_each() == 1
    assert Workers(workers=2, threads=3, device="cpu").threads_each() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Workers(workers=2, device="cpu").threads_each() == 2
    assert Workers(workers=8, device="cpu").threads_each() == 1


def test_no_worker_outlives_a_killed_parent():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_workers import Slow, Workers, trials\n"
        "import multiprocessing\n"
        "running = trials(Slow(), list(range(1000)), Workers(workers=2, threads=1, device='cpu'))\n"
        "next(running)\n"
        "print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "list(running)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    from victims import all_end  # here, as scripts of other tests import this file

    assert all_end(children)


def test_a_script_needs_no_guard_around_its_main_part(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from test_workers import Squares, Workers, trials\n"
        "print(len(list(trials(Squares(), [1, 2, 3], Workers(workers=1, device='cpu')))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_wrong_workers(monkeypatch):
    with pytest.raises(UserError, match="--workers -1"):
        Workers(workers=-1)
    with pytest.raises(UserError, match="--threads 0"):
        Workers(threads=0)
    with pytest.raises(UserError, match="--device"):
        Workers(device="tpu").check()
    with pytest.raises(UserError, match="ray://HOST:PORT"):
        Workers(cluster="somewhere:6379").check()
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install condensekit\[cluster\]"):
        Workers(cluster="auto").check()


# ---- Ray


@pytest.fixture
def ray():
    ray = pytest.importorskip(
        "ray", reason="Ray is not installed: pip install condensekit[cluster]"
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_trains_the_same_though_a_worker_is_killed(ray, expected):
    ray.init(
        num_cpus=2,
        log_to_driver=False,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": _path()}},
    )
    running = trials(Slow(), TASKS, Workers(cluster="local", device="cpu", threads=1))
    found = [next(running)]
    from victims import a_ray_worker  # here, as scripts of other tests import this file

    os.kill(a_ray_worker(os.getpid()), signal.SIGKILL)
    found += running
    assert len(found) == len(TASKS)
    assert _comparable(found) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_names_a_training_that_always_kills_its_worker(ray):
    ray.init(
        num_cpus=2,
        log_to_driver=False,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": _path()}},
    )
    with pytest.raises(UserError, match="died 3 times"):
        list(trials(Fatal(), TASKS, Workers(cluster="local", device="cpu", threads=1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_cluster_is_an_error(ray):
    for address in ("auto", "ray://127.0.0.1:1"):
        with pytest.raises(UserError, match="cannot be reached"):
            Workers(cluster=address).check()


def _path() -> str:
    """What Ray's workers need to find this file and the packages."""
    return os.pathsep.join([os.path.dirname(__file__), *sys.path])
