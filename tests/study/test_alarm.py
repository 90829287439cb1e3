"""The alarm that ends work when its time is up."""

import gc
import time

import pytest

from condense.study import interrupt


def test_an_alarm_in_a_callback_of_the_garbage_collector_comes_after_it() -> None:
    """Python would only print an exception that is raised there, and the work would go on."""
    called = []

    def wait(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and not called:
            called.append(phase)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass

    def work() -> None:
        gc.collect()
        time.sleep(5)

    gc.callbacks.append(wait)
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            interrupt._handlers({interrupt.signal.SIGALRM: interrupt._on_alarm}),
            interrupt._alarm(0.1),
        ):
            work()
    finally:
        gc.callbacks.remove(wait)
    assert called
