"""The full-scale results, worked out a few minutes at a time: `python -m benchmarks.campaign --help`."""
