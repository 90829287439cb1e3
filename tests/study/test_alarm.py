"""The alarm that ends work when its time is up."""

import subprocess
import sys

import pytest

WORK = """
import gc, time, weakref
from condense.study.interrupt import stoppable

def wait(*told):
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass

class Held:
    pass

class Final(Held):
    __del__ = wait

with stoppable(minutes=0.1 / 60):
    {}
    time.sleep(5)
"""
MOMENTS = {
    "a finalizer": "Final()",
    "a weak reference": "held = Held(); weak = weakref.ref(held, wait); del held",
    "the garbage collector": "gc.callbacks.append(wait); gc.collect()",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_alarm_that_python_drops_comes_again(moment: str) -> None:
    """Python would only print what is raised there, and the work would go on.

    It is tried in a process of its own, which has no garbage of other tests to collect.
    """
    work = WORK.format(MOMENTS[moment])
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("KeyboardInterrupt")
    assert "Exception ignored" not in done.stderr
    assert done.returncode != 0


def test_nothing_is_left_behind() -> None:
    work = """
import signal, sys
from condense.study.interrupt import stoppable
before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
with stoppable(minutes=1):
    with stoppable():
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
assert before == (sys.unraisablehook, signal.getsignal(signal.SIGALRM))
"""
    subprocess.run([sys.executable, "-c", work], check=True)
