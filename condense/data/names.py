"""What a dataset of files is called: by its whole path for whoever loads it, else by the last part.

A run keeps the whole path, so that it finds its data from anywhere. What is given away has only the
last part: where somebody keeps their pictures is nobody else's business.
"""

from pathlib import Path

from condense.reading import usable_path

RESIZED = ("folder:", "hf:")
"""How the names of datasets begin whose images are given the size that is asked for."""


def located(name: str) -> str:
    """The name of a dataset with an absolute path, if it names files; any other as it is.

    Raises `UserError` for a path that cannot be used.

    >>> located("digits"), located("folder:/home/me/photos"), located("hf:somebody/pets")
    ('digits', 'folder:/home/me/photos', 'hf:somebody/pets')
    >>> located("folder:photos") == f"folder:{Path.cwd() / 'photos'}"
    True
    """
    kind, path = _parts(name)
    if not path or Path(path).is_absolute():
        return name
    whole = usable_path(path).absolute()
    return name if kind == "hf:" and not whole.exists() else f"{kind}{whole}"


def called(name: str) -> str:
    """The name of a dataset with only the last part of a path in it.

    >>> called("folder:/home/me/photos"), called("/home/me/mine.npz"), called("hf:somebody/pets")
    ('folder:photos', 'mine.npz', 'hf:somebody/pets')
    """
    kind, path = _parts(name)
    if not path or (kind == "hf:" and not Path(path).is_absolute()):
        return name
    last = Path(path).name
    return f"{kind}{last if last not in ('', '..') else Path(path).resolve().name}"


def place(name: str) -> Path | None:
    """The absolute path in the name of a dataset; None if there is none.

    >>> place("folder:/home/me/photos"), place("digits")
    (PosixPath('/home/me/photos'), None)
    """
    path = Path(_parts(name)[1])
    return path if path.is_absolute() else None


def _parts(name: str) -> tuple[str, str]:
    """What comes before the path in the name of a dataset, and the path, which may be empty."""
    for kind in RESIZED:
        if name.startswith(kind):
            return kind, name.removeprefix(kind)
    return ("", name) if name.endswith(".npz") else (name, "")
