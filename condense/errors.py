"""Errors that a user can cause and fix, each told in one line.

They are all raised as `UserError`. The command line prints the message and exits with code 2.
Any other exception is a bug in this package.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Invalid input. The message says in one line what is wrong, where, and what to do about it.

    >>> raise UserError("`steps` is -1: it must be 0 or more")
    Traceback (most recent call last):
    condense.errors.UserError: `steps` is -1: it must be 0 or more
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is not one of the `known` names; it suggests the closest ones.

    >>> str(unknown("dataset", "cifar1O", ["cifar10", "mnist"]))
    'unknown dataset `cifar1O`: did you mean `cifar10`? known: cifar10, mnist'
    """
    known = list(known)
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
    return UserError(f"unknown {kind} `{name}`: {hint}known: {', '.join(known)}")
