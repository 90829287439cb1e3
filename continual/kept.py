"""A condensed set that a memory takes its rows from, and that its checkpoints only name.

A checkpoint of a memory must not hold the images of classes that are still to come. What is pickled
is the set's fingerprint and its file, if it has one. When it is read, the set is found among those
that the process holds, or in its file.
"""

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from condense.errors import UserError
from condense.sets import published
from condense.sets.condensed import CondensedSet
from continual.fit import Look

_HELD: "WeakValueDictionary[str, CondensedSet]" = WeakValueDictionary()
"""The sets of all memories of this process, by fingerprint."""


class KeptSet:
    """A set, or the name of one.

    >>> import pickle
    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> whole = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> text = pickle.dumps(KeptSet(whole))
    >>> len(text) < 300, pickle.loads(text).set is whole
    (True, True)
    """

    def __init__(self, source: CondensedSet | str | Path) -> None:
        """Take a set, or read one from its file or run folder."""
        self._path = None if isinstance(source, CondensedSet) else str(source)
        if self._path is not None and not published.is_name(self._path):
            self._path = str(Path(self._path).absolute())
        self._set = source if isinstance(source, CondensedSet) else CondensedSet.load(source)
        self._look: Look | None = None
        self.fingerprint = self._set.fingerprint
        _HELD[self.fingerprint] = self._set

    @property
    def set(self) -> CondensedSet:
        """The set. Raises `UserError` if it is not found, or if its file holds another set."""
        if self._set is None:
            self._set = _HELD.get(self.fingerprint)
        if self._set is None:
            if self._path is None:
                raise UserError(
                    f"a checkpoint names the condensed set {self.fingerprint} but does not hold "
                    "it: make the memory's set again before the checkpoint is read"
                )
            found = CondensedSet.load(self._path)
            if found.fingerprint != self.fingerprint:
                raise UserError(
                    f"{self._path} now holds set {found.fingerprint}, and the memory was made of "
                    f"{self.fingerprint}: restore the file"
                )
            self._set = _HELD[self.fingerprint] = found
        return self._set

    @property
    def look(self) -> Look:
        """What the images of the set look like."""
        if self._look is None:
            self._look = Look.of(self.set)
        return self._look

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_set": _HELD.get(state["fingerprint"]), "_look": None}
