"""The formats of other tools, one file each: how a set is read from it and written to it."""
