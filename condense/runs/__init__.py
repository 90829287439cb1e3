"""A condensation from start to end, in a folder."""
