"""Errors that a user can cause and fix, each told in one line.

They are all raised as `UserError`. The command line prints the message and exits with code 2.
Any other exception is a bug in this package.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

_LONGEST = 1000
"""The most characters of a message that `one_line` leaves."""


class UserError(Exception):
    """Invalid input. The message says in one line what is wrong, where, and what to do about it.

    >>> raise UserError("`steps` is -1: it must be 0 or more")
    Traceback (most recent call last):
    condense.errors.UserError: `steps` is -1: it must be 0 or more
    """


def unknown(
    kind: str, name: str, known: Iterable[str], also: Mapping[str, str] | None = None
) -> UserError:
    """The error for a `name` that is not one of the `known` names; it suggests the closest ones.

    `also` has other words that people may write, each with the name that they mean.

    >>> str(unknown("dataset", "cifar1O", ["cifar10", "mnist"]))
    'unknown dataset `cifar1O`: did you mean `cifar10`? known: cifar10, mnist'
    >>> str(unknown("format", "hugginface", ["hf", "pt"], {"huggingface": "hf"}))
    'unknown format `hugginface`: did you mean `hf`? known: hf, pt'
    """
    known = list(known)
    meant = {one: one for one in known} | (dict(also) if also else {})
    close = get_close_matches(name, meant, n=3)
    near = dict.fromkeys(meant[word] for word in close)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
    return UserError(f"unknown {kind} `{name}`: {hint}known: {', '.join(known)}")


@contextmanager
def advice(hint: str) -> Iterator[None]:
    """Say in every `UserError` of what is inside also what to do.

    >>> with advice("unpack the archive again"):
    ...     raise UserError("words.txt does not exist")
    Traceback (most recent call last):
    condense.errors.UserError: words.txt does not exist; unpack the archive again
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {hint}") from None


def one_line(text: str) -> str:
    """A message on one line that a terminal shows as it is, whatever names it holds.

    Line breaks become a blank, other control characters are escaped. A text of more than 1,000
    characters loses its middle.

    >>> one_line("no file `a\\nb\\x1b[31m`")
    'no file `a b\\\\x1b[31m`'
    """
    text = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip()
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def reason(error: Exception) -> str:
    """What the code of others has raised, on one line.

    >>> reason(ValueError("no such size"))
    'ValueError: no such size'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]
