"""A thread that finds no memory ends at once, and nobody waits for it."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import resource, threading
from condense.progress import aloud, notice

thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()  # its stack stays, so that there is one for the next thread
spare, taken, size = bytearray(1 << 14), [], 1 << 20
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, used))
while size >= 16:
    try:
        taken.append(bytearray(size))
    except MemoryError:
        size //= 2
del spare
with aloud(), notice("what takes long"):
    pass
taken.clear()
print("it goes on")
"""


def test_a_notice_without_memory_is_not_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "it goes on\n", done.stderr
