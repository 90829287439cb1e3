"""Measurements: `python -m benchmarks.NAME --help`. What they found is in `results/`, with how to get it again."""
