"""The alarm that ends work when its time is up."""

import subprocess
import sys

WORK = """
import gc, time
from condense.study import interrupt

def wait(phase, info):
    end = time.monotonic() + 0.3
    while phase == "stop" and time.monotonic() < end:
        pass

gc.callbacks.append(wait)
with (
    interrupt._handlers({interrupt.signal.SIGALRM: interrupt._on_alarm}),
    interrupt._alarm(0.1),
):
    gc.collect()
    time.sleep(5)
"""


def test_an_alarm_in_a_callback_of_the_garbage_collector_comes_after_it() -> None:
    """Python would only print an exception that is raised there, and the work would go on.

    It is tried in a process of its own, which has no garbage of other tests to collect.
    """
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr.splitlines()[-1]
    assert done.returncode != 0
