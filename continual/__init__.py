"""Class-incremental learning with condensed memories, in Avalanche.

>>> from continual import CondensedBuffer, class_stream
>>> ReplayPlugin(  # doctest: +SKIP
...     mem_size=2000, storage_policy=CondensedBuffer("runs/cifar100", max_size=2000)
... )

Avalanche takes seconds to import and may be absent: each name here is imported when it is first used. The protocol
that trains from scratch (`continual.protocol`) needs no Avalanche.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from condense.errors import UserError

if TYPE_CHECKING:
    from continual.buffer import CondensedBuffer, CondensedBufferWithLogits
    from continual.memories import Online
    from continual.orders import class_order, of_classes, split
    from continual.plan import Plan
    from continual.plugins import CondensedGDumb, CondensedICaRL, CondensedReplayPlugin
    from continual.stream import class_stream
    from continual.study import resume, run

_HOMES = {
    "CondensedBuffer": "buffer",
    "CondensedBufferWithLogits": "buffer",
    "CondensedGDumb": "plugins",
    "CondensedICaRL": "plugins",
    "CondensedReplayPlugin": "plugins",
    "Online": "memories",
    "Plan": "plan",
    "class_order": "orders",
    "class_stream": "stream",
    "of_classes": "orders",
    "resume": "study",
    "run": "study",
    "split": "orders",
}

__all__ = [
    "CondensedBuffer",
    "CondensedBufferWithLogits",
    "CondensedGDumb",
    "CondensedICaRL",
    "CondensedReplayPlugin",
    "Online",
    "Plan",
    "class_order",
    "class_stream",
    "of_classes",
    "resume",
    "run",
    "split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"continual.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "avalanche":
            raise
        raise UserError(
            f"`{name}` needs Avalanche, which is not installed: pip install avalanche-lib"
        ) from None
