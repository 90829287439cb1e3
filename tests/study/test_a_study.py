"""A study does what is left, keeps what is finished, and says how to go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from condense.errors import UserError
from condense.study.interrupt import Interrupted, stop_signal, stoppable
from condense.study.record import Record, locked
from condense.study.study import Study
from condense.study.trials import Key, Trials
from condense.study.workers import Workers

HERE = Workers(workers=0, device="cpu")


class Squares:
    """The square of a number; what was done is kept in `log`."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.log = pause, list[int]()

    def to(self, device: torch.device) -> "Squares":
        return self

    def key(self, task: int) -> Key:
        return Key.of("squares", number=task)

    def name(self, task: int) -> str:
        return f"the square of {task}"

    def run(self, task: int) -> dict:
        time.sleep(self.pause)
        self.log.append(task)
        return {"square": task**2}


def _work(study, bench, minutes=None, workers=HERE, report=lambda done, trial: None):
    study.work(bench, workers, report, how_to_go_on="the same command goes on", minutes=minutes)


def test_only_what_is_left_is_done(tmp_path):
    bench = Squares()
    with Trials(tmp_path / "t.sqlite") as store:
        _work(Study(store, [1, 2], bench.key), bench)
        study = Study(store, [2, 3, 1, 4], bench.key)
        assert (study.total, study.done, study.left) == (4, 2, [3, 4])
        counts = []
        _work(study, bench, report=lambda done, trial: counts.append(done))
        assert bench.log == [1, 2, 3, 4]
        assert counts == [3, 4]
        assert study.results() == {n: {"square": n**2} for n in (2, 3, 1, 4)}


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    bench = Squares()
    with Trials(tmp_path / "t.sqlite") as store:
        study = Study(store, list(range(9)), bench.key)

        def report(done, trial):
            if done == 3:
                signal.raise_signal(signal.SIGTERM)  # as good as Ctrl-C

        with pytest.raises(Interrupted, match="stopped after 3 of 9; the same command goes on"):
            _work(study, bench, report=report)
        assert study.done == 3
        _work(study, bench)
        assert (study.done, bench.log) == (9, list(range(9)))


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(HERE, 1), (Workers(workers=1, threads=1, device="cpu"), 5)],  # a process begins slowly
)
def test_the_end_of_the_time_is_no_error(tmp_path, workers, seconds):
    bench = Squares(pause=0.05)
    with Trials(tmp_path / "t.sqlite") as store:
        study = Study(store, list(range(2000)), bench.key)
        began = time.monotonic()
        _work(study, bench, minutes=seconds / 60, workers=workers)
        assert time.monotonic() - began < 60
        assert study.done < 2000


def test_a_time_limit_inside_another_ends_with_the_first():
    with stoppable(0.15 / 60) as outer, pytest.raises(KeyboardInterrupt), stoppable(10) as inner:
        time.sleep(5)
    assert outer()
    assert not inner()
    with pytest.raises(KeyboardInterrupt), stoppable(0.2 / 60):
        _sleep_through_a_short_limit()


def _sleep_through_a_short_limit():
    with stoppable(0.01 / 60), pytest.raises(KeyboardInterrupt):
        time.sleep(5)
    time.sleep(5)  # the outer limit still holds


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(minutes):
    with pytest.raises(UserError, match="--minutes"), stoppable(minutes):
        pass


def test_handlers_are_put_back_and_other_threads_are_left_alone():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with stoppable(1), stop_signal():
        pass
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    seen = []

    def elsewhere():
        with stoppable(1) as time_is_up, stop_signal() as stopping:
            seen.append((time_is_up(), stopping()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, False)]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_a_study import Squares, Study, Trials, Workers, _work
with Trials(sys.argv[2]) as store:
    bench = Squares(pause=0.02)
    _work(Study(store, list(range(40)), bench.key), bench, workers=Workers(
        workers=int(sys.argv[3]), threads=1, device="cpu"),
        report=lambda done, trial: print(done, flush=True))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_study_killed_again_and_again_ends_as_if_undisturbed(tmp_path, workers):
    path, lost = tmp_path / "t.sqlite", 0
    for moment in (1, 5, 12):
        command = [
            sys.executable,
            "-c",
            KILLED,
            str(Path(__file__).parent),
            str(path),
            str(workers),
        ]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if int(line) - lost >= moment:
                    break
            os.kill(process.pid, signal.SIGKILL)
        with Trials(path) as store:
            lost = len(store)
            assert lost >= moment
    bench = Squares()
    with Trials(path) as store:
        study = Study(store, list(range(40)), bench.key)
        _work(study, bench)
        assert study.results() == {n: {"square": n**2} for n in range(40)}
        assert len(bench.log) == 40 - lost


# ---- the record of a plan, and the lock


def test_a_folder_belongs_to_one_plan(tmp_path):
    record = Record(tmp_path, "plan.json", "run", "continual")
    with pytest.raises(
        UserError, match=r"holds no run \(no plan.json\): start one with `condensekit continual"
    ):
        record.read()
    record.check_free({"plan": {"steps": (1, 2)}})
    record.write({"plan": {"steps": (1, 2)}, "progress": 3})
    assert record.read() == {"plan": {"steps": [1, 2]}, "progress": 3}
    with pytest.raises(
        UserError, match="holds this run: go on with `condensekit continual --resume"
    ):
        record.check_free({"plan": {"steps": (1, 2)}})
    with pytest.raises(
        UserError, match=r"holds another run \(plan.steps \[1, 2\] there, \[1\] here\)"
    ):
        record.check_free({"plan": {"steps": (1,)}})


def test_a_folder_in_use_is_refused_and_an_empty_one_removed(tmp_path):
    folder = tmp_path / "a" / "b"
    with locked(folder), pytest.raises(UserError, match="in use by another run"), locked(folder):
        pass
    assert not folder.exists()
    with locked(folder):
        (folder / "kept").touch()
    assert (folder / "kept").exists()
