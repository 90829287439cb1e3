"""Large transforms in files of their own, which all sets of a folder share.

FOLDER/zca-FINGERPRINT.safetensors    beside the sets that were made under it

The ZCA of CIFAR-10 takes 38 MB, a hundred images 1 MB.
"""

import re
from pathlib import Path
from weakref import WeakValueDictionary

from condense.data.preprocess import PREPROCESS, Preprocess, from_state
from condense.errors import UserError
from condense.files import load_tensors, save_tensors

_LARGE = 1_000_000
"""The size in bytes above which a transform is large."""
_read: WeakValueDictionary[str, Preprocess] = WeakValueDictionary()
"""Those that are in memory, by fingerprint: many sets share one."""


def is_large(preprocess: Preprocess) -> bool:
    """Whether a transform is worth a file of its own.

    >>> from condense import CondensedSet
    >>> is_large(CondensedSet.load("cifar10-ipc1-best").preprocess)
    False
    """
    return sum(tensor.nbytes for tensor in preprocess.state().values()) > _LARGE


def keep(preprocess: Preprocess, folder: Path) -> None:
    """Write a transform into a folder, unless it is there.

    >>> import torch
    >>> from condense.data.preprocess import Standardize
    >>> standard = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    >>> keep(standard, Path("sets"))
    >>> find(Path("sets"), "standard", standard.fingerprint).fingerprint == standard.fingerprint
    True
    """
    path = _file(folder, preprocess.name, preprocess.fingerprint)
    if not path.exists():
        save_tensors(path, preprocess.state(), {"preprocess": preprocess.name})


def find(folder: Path, name: str, fingerprint: str) -> Preprocess:
    """The transform called `name` of that fingerprint, from its file in a folder.

    Raises `UserError` if the file is missing or damaged, or holds another transform, and for what
    is no fingerprint.

    >>> find(Path("elsewhere"), "zca", "0123456789abcdef")
    Traceback (most recent call last):
    condense.errors.UserError: elsewhere/zca-0123456789abcdef.safetensors is missing: ...
    """
    if name not in PREPROCESS or not re.fullmatch("[0-9a-f]{16}", str(fingerprint)):
        raise UserError("what it names is no transform (`zca` and 16 hexadecimal digits, say)")
    path = _file(folder, name, fingerprint)
    if not path.exists():
        raise UserError(
            f"{path} is missing: the set was made under this transform, whose file lay beside it; "
            "copy that, too"
        )
    if (known := _read.get(fingerprint)) is not None:
        return known
    preprocess = from_state(name, load_tensors(path)[0])
    if preprocess.fingerprint != fingerprint:
        raise UserError(f"{path} holds another transform, {preprocess.fingerprint}")
    _read[fingerprint] = preprocess
    return preprocess


def _file(folder: Path, name: str, fingerprint: str) -> Path:
    return folder / f"{name}-{fingerprint}.safetensors"
