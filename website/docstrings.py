"""An extension of griffe: the docstrings of this project as Markdown.

They are written as plain text: examples begin with `>>>`, and parameters are lines `name: text`
under a heading.
"""

import re
from typing import Any

import griffe

_ONE = r"^>>> .*\n?(?:^(?!\s*$).*\n?)*"
_EXAMPLE = re.compile(rf"{_ONE}(?:\n*{_ONE})*", re.M)
_PARAMETERS = re.compile(r"^Parameters\n-+\n((?:.+\n?)+)", re.M)
_NAME = re.compile(r"^([\w, ]+): ", re.M)


def as_markdown(text: str) -> str:
    """A docstring in Markdown.

    >>> print(as_markdown("Add.\\n\\n>>> 1 + 1\\n2\\n"))
    Add.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    """
    text = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
    return _PARAMETERS.sub(
        lambda found: "**Parameters**\n\n" + _NAME.sub(r"- `\1`: ", found[1]), text
    )


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
