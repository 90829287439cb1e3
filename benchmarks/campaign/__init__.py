"""The full-scale results, a few minutes at a time: `python -m benchmarks.campaign --help`."""
