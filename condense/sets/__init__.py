"""Condensed sets: what they hold, their file, and the files of other tools."""
