"""Several processes (ranks) that share the classes of one run; `torchrun` starts them.

The ranks do not communicate while they work. They agree on the job at the start, and hand their
images to rank 0 at the end. Both use gloo, on the host. All ranks must see the run folder. A single
process is a team of one rank.
"""

import atexit
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from condense.errors import UserError
from condense.study.record import differences

_PATIENCE = timedelta(days=7)
"""How long a rank waits for a slower one. If one dies, torchrun stops the others at once."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place in its team: its rank, and the number of ranks.

    >>> Ranks.join()  # outside of torchrun
    Ranks(rank=0, count=1)
    >>> Ranks(rank=1, count=2).leads
    False
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """Join the team that torchrun started; outside of torchrun, this is a team of one."""
        if _number("WORLD_SIZE", least=1) == 1:
            return cls()
        if not dist.is_initialized():
            try:
                dist.init_process_group("gloo", timeout=_PATIENCE)
            except (ValueError, RuntimeError) as error:
                raise UserError(
                    f"the ranks cannot find each other: {error}; start them by torchrun, or unset "
                    "WORLD_SIZE"
                ) from None
            # If the group lived to the interpreter's end, its threads might outlive what they use,
            # and the process would abort.
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the files that all ranks share."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """The device of this rank: `cuda:LOCAL_RANK` if `device` is a GPU, else `device`."""
        if device.type == "cuda" and self.count > 1:
            return torch.device("cuda", _number("LOCAL_RANK", least=0))
        return device

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.count > 1:
            dist.barrier()

    def agree(self, job: dict[str, Any]) -> None:
        """Raise a `UserError` that names the differences, unless all ranks have the same job."""
        jobs = self._from_all(job)
        self.wait()  # a rank that raises ends at once, so no other may still be reading from it
        for rank, theirs in enumerate(jobs):
            if changed := differences(job, theirs):
                raise UserError(
                    f"rank {rank} was started with other settings than rank {self.rank}: {changed}"
                )

    def gather(self, part: Any) -> list[Any]:
        """On rank 0, the list of every rank's `part`; on the other ranks, an empty list.

        >>> Ranks().gather("images")
        ['images']
        """
        if self.count == 1:
            return [part]
        parts: list[Any] | None = [None] * self.count if self.leads else None
        dist.gather_object(part, parts)
        return parts or []

    def _from_all(self, value: Any) -> list[Any]:
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


def _number(name: str, least: int) -> int:
    """A whole number that torchrun sets in the environment; `least` unless it is set."""
    text = os.environ.get(name, str(least))
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < least:
        raise UserError(
            f"{name} is `{text}` in the environment: it must be a whole number, {least} or more; "
            "torchrun sets it, otherwise unset it"
        )
    return int(text)
