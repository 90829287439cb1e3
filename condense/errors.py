"""What a user did wrong, in one line.

Everything a user can get wrong is raised as a `UserError`: what is wrong, where, and what to do.
The command line prints it and exits with 2; any other exception is a fault of ours.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input, named in one line: what is wrong, where, what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is not among the `known` ones, nearest first.

    >>> unknown("dataset", "cifar1O", ["cifar10", "mnist"]).args[0]
    'unknown dataset `cifar1O`: did you mean `cifar10`? known: cifar10, mnist'
    """
    known = list(known)
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
    return UserError(f"unknown {kind} `{name}`: {hint}known: {', '.join(known)}")
