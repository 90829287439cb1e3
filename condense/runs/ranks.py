"""Several processes that share the classes of one run, started by `torchrun`; alone, a team of one.

The ranks need nothing of each other while they work: they agree on the job at the start, and hand their images to
rank 0 at the end. Both go over gloo, on the host. The run folder must be one that all ranks see.
"""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from condense.errors import UserError
from condense.study.record import differences

_PATIENCE = timedelta(days=7)
"""How long a rank waits for a slower one; torchrun stops it sooner if another dies."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """The team that torchrun's environment names; a team of one outside torchrun."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            # Left to the interpreter's end, the group's threads may outlive what they use, and the process aborts.
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes what all share."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """This rank's own GPU where `device` is one: `cuda:LOCAL_RANK`."""
        if device.type == "cuda" and self.count > 1:
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return device

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def agree(self, job: dict[str, Any]) -> None:
        """Raise a `UserError` on every rank, naming what differs, unless all ranks have the same job."""
        jobs = self._from_all(job)
        self.wait()  # whoever is refused leaves at once: not while another still reads from it
        for rank, theirs in enumerate(jobs):
            if changed := differences(job, theirs):
                raise UserError(
                    f"rank {rank} was started with other settings than rank {self.rank}: {changed}"
                )

    def gather(self, part: Any) -> list[Any]:
        """Every rank's `part`, on rank 0; an empty list on the others."""
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
