"""Trainings in this process, in worker processes and on Ray give the same trials, whoever is killed on the way."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace

import pytest
import torch

from condense import Images, Protocol, UserError
from condense.data.preprocess import Standardize
from condense.study.workers import Engine, trainings
from nas.proxies import Proxy
from nas.spaces import convnet720 as convnet_space
from nas.training import Bench, Regime, Task

SMALL = [
    i for i in range(720) if (a := convnet_space.architecture(i)).width == 32 and a.depth == 1
][:6]
TASKS = [Task(seed, index, "toys") for seed in range(2) for index in SMALL]


def _make(kind: type[Bench] = Bench) -> Bench:
    pixels = torch.randint(
        256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    images = Images(pixels, torch.arange(12) % 3, ("a", "b", "c"))
    preprocess = Standardize.fit(pixels)
    proxy = Proxy("toys", pixels, images.labels, preprocess, "70f5")
    regime = Regime(protocol=Protocol(epochs=3, batch=6, augment="none"))
    return kind("convnet720", 3, regime, {"toys": proxy}, images, preprocess)


def _comparable(trials) -> dict:
    return {trial.key: replace(trial, seconds=0, host="") for trial in trials}


class Slow(Bench):
    """So that a worker is killed in the middle of a training."""

    def run(self, task):
        time.sleep(0.3)
        return super().run(task)


class Fatal(Bench):
    """A candidate too large for the machine."""

    def run(self, task):
        if task.architecture == SMALL[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


class Faulty(Bench):
    def run(self, task):
        raise ZeroDivisionError("a fault of ours")


@pytest.fixture(scope="module")
def expected():
    torch.set_num_threads(1)  # as the workers have: another number rounds otherwise
    return _comparable(trainings(_make(), TASKS, Engine(workers=0, device="cpu")))


def test_two_processes_train_what_one_does_though_one_is_killed(expected):
    running = trainings(_make(Slow), TASKS, Engine(workers=2, threads=1, device="cpu"))
    found = [next(running)]
    victims = multiprocessing.active_children()
    assert len(victims) == 2
    os.kill(victims[0].pid, signal.SIGKILL)
    found += running
    assert len(found) == len(TASKS)
    assert _comparable(found) == expected
    assert not multiprocessing.active_children()


def test_a_training_that_always_kills_its_worker_is_named():
    running = trainings(_make(Fatal), TASKS[:3], Engine(workers=1, threads=1, device="cpu"))
    name = convnet_space.architecture(SMALL[2]).name
    with pytest.raises(UserError, match=f"`{name}` on `toys` died 3 times"):
        list(running)
    assert not multiprocessing.active_children()


def test_a_fault_in_a_worker_is_raised_here():
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        list(trainings(_make(Faulty), TASKS, Engine(workers=1, threads=1, device="cpu")))


def test_closing_stops_the_workers():
    running = trainings(_make(Slow), TASKS, Engine(workers=1, threads=1, device="cpu"))
    next(running)
    running.close()
    assert not multiprocessing.active_children()


def test_nothing_to_do_starts_nothing():
    assert list(trainings(_make(), [], Engine(device="cpu"))) == []
    assert not multiprocessing.active_children()


def test_wrong_engines(monkeypatch):
    with pytest.raises(UserError, match="--workers -1"):
        Engine(workers=-1)
    with pytest.raises(UserError, match="--threads 0"):
        Engine(threads=0)
    with pytest.raises(UserError, match="--device"):
        Engine(device="tpu").check()
    with pytest.raises(UserError, match="ray://HOST:PORT"):
        Engine(cluster="somewhere:6379").check()
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install condensekit\[cluster\]"):
        Engine(cluster="auto").check()


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
    running = trainings(_make(Slow), TASKS, Engine(cluster="local", device="cpu", threads=1))
    found = [next(running)]
    victim = _a_ray_worker()
    os.kill(victim, signal.SIGKILL)
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
        list(trainings(_make(Fatal), TASKS[:3], Engine(cluster="local", device="cpu", threads=1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_cluster_is_an_error(ray):
    for address in ("auto", "ray://127.0.0.1:1"):
        with pytest.raises(UserError, match="cannot be reached"):
            Engine(cluster=address).check()


def _path() -> str:
    """What Ray's workers need to find this file and the packages."""
    return os.pathsep.join([os.path.dirname(__file__), *sys.path])


def _a_ray_worker() -> int:
    """The process id of a worker that is at a training."""
    for _ in range(100):
        for name in os.listdir("/proc"):
            if name.isdecimal():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        title = file.read()
                except OSError:
                    continue
                if title.startswith(b"ray::_on_a_node"):
                    return int(name)
        time.sleep(0.05)
    raise AssertionError("no Ray worker is at a training")
