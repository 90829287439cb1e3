"""How many kernels an operation would launch on a GPU."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts operations that a GPU would launch a kernel for: those that make no view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += not function.is_view and "empty" not in function.name()
        return function(*arguments, **(named or {}))
