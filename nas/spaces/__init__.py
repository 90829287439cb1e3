"""Search spaces by name. Adding one is a file and a line here.

A space is a module with `NAME`, `SIZE`, `architecture(key)` (an index, a name, or an index as text) and
`sample(count, seed)`, and with what a search does unless told otherwise: `REGIME`, `REFERENCE_REGIME`, `SAMPLE` and
`SCORE`. What `architecture` returns has `index`, `name`, `parameters(shape, num_classes)`, `flops(shape, num_classes)`,
`build(shape, num_classes, **sizes)`, where `sizes` are those of the regime, and `facts()`.
"""

from importlib import import_module
from typing import Any

from condense.errors import unknown

SPACES = {"convnet720": "nas.spaces.convnet720", "nasbench201": "nas.spaces.nasbench201"}


def space(name: str) -> Any:
    """The module of the space called `name`; an unknown name is a `UserError`."""
    if name not in SPACES:
        raise unknown("search space", name, SPACES)
    return import_module(SPACES[name])
