"""Search spaces by name. To add a space, write its module and add a line here.

A space is a module with `NAME`, `SIZE`, `architecture(key)` and `sample(count, seed)`, where a key
is an index, an index as text, or a name. It also has the defaults of a search: `REGIME`,
`REFERENCE_REGIME`, `SAMPLE` and `SCORE`. An architecture has `index`, `name`,
`parameters(shape, num_classes)`, `flops(shape, num_classes)`, and
`build(shape, num_classes, **sizes)`, which takes the sizes of the regime.
"""

from importlib import import_module
from typing import Any

from condense.errors import unknown

SPACES = {
    "convnet720": "nas.spaces.convnet720",
    "nasbench201": "nas.spaces.nasbench201",
}
"""The module of each space, by its name."""


def space(name: str) -> Any:
    """The module of the space called `name`.

    Raises `UserError` for an unknown name.

    >>> space("nasbench201").SIZE
    15625
    """
    if name not in SPACES:
        raise unknown("search space", name, SPACES)
    return import_module(SPACES[name])
