"""Measurements: `python -m benchmarks.NAME --help`.

What they found is in `results/`, with how to get it again.
"""

from condense.threads import wait_passively

wait_passively()  # before a benchmark imports torch
