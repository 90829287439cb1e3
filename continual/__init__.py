"""Class-incremental learning with condensed memories, in Avalanche.

>>> from continual import CondensedBuffer  # doctest: +SKIP
>>> ReplayPlugin(  # doctest: +SKIP
...     mem_size=2000, storage_policy=CondensedBuffer("runs/cifar100", max_size=2000)
... )

Avalanche takes seconds to import and may not be installed. The names are listed in `__init__.pyi`;
each is imported when it is first used. Runs that train from scratch (`continual.study`) do not need
Avalanche.
"""

from typing import Any

import lazy_loader

from condense.errors import UserError

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "avalanche":
            raise
        raise UserError(
            f"`{name}` needs Avalanche, which is not installed: pip install avalanche-lib"
        ) from None
