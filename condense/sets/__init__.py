"""Condensed sets: what they consist of, how they are stored, and exchange with other tools."""

from condense.sets.condensed import CondensedSet
from condense.sets.exchange import export_set, import_set

__all__ = ["CondensedSet", "export_set", "import_set"]
