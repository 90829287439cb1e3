"""The version of condensekit."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """The installed version of condensekit, or `source` if it runs from an uninstalled checkout.

    >>> isinstance(version(), str)
    True
    """
    try:
        return installed("condensekit")
    except PackageNotFoundError:
        return "source"
