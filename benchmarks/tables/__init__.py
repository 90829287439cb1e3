"""The comparisons of the DataDAM paper as commands: `python -m benchmarks.tables --help`."""
