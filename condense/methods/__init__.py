"""Methods by name. Adding one is a file and a line here."""

from condense.methods.base import Looping, Matching, Method
from condense.methods.datadam import DataDAM
from condense.methods.dm import DM

METHODS: dict[str, type] = {
    "datadam": DataDAM,
    "dm": DM,
}

__all__ = ["DM", "METHODS", "DataDAM", "Looping", "Matching", "Method"]
