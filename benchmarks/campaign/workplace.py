"""Where the jobs of the campaign find the datasets and leave what they did."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks import results
from benchmarks.tables.bench import TableWork
from condense import CondensedSet, load_dataset
from condense.data.images import Dataset
from condense.reading import read_json
from condense.study.interrupt import Interrupted
from condense.study.workers import Workers
from condense.writing import write_json

KEPT_BYTES = 500_000
"""Largest file of a set that is kept beside its record.

Others lie in the folder `large`, which git ignores: a CIFAR-100 set at IPC 50 has 15 MB of pixels,
and every set under ZCA a matrix of 38 MB.
"""

Work = Callable[["Workplace", str], None]
"""What does a job, in a place and under a name."""
Planned = Iterator[tuple[float, str, Work]]
"""Jobs: the order of each, its name and its work."""


class Workplace:
    """Where jobs find the datasets and leave what they did, and what they run on."""

    def __init__(self, out: Path, data_dir: str | None, flags: str, workers: Workers) -> None:
        self.out, self.data_dir, self.workers, self._flags = out, data_dir, workers, flags
        self.dataset: Callable[[str], Dataset] = cache(lambda name: load_dataset(name, data_dir))

    def record(self, name: str) -> dict[str, Any]:
        """What is known of a job: `finished`, `note` (how far it is) and whatever the job adds."""
        path = self.out / f"{name}.json"
        return (
            read_json(path) if path.exists() else {"name": name, "finished": False, "note": "to do"}
        )

    def keep(self, record: dict[str, Any], note: str) -> None:
        """Write a job's record."""
        record["note"] = note
        write_json(self.out / f"{record['name']}.json", record)

    @contextmanager
    def tables(self, folder: Path) -> Iterator[TableWork]:
        """The work of tables in a folder. What networks reach is in one store for all jobs."""
        store = self.out / "networks.sqlite"
        pools = self.out / "large" / "pools"
        with closing(TableWork(folder, self.data_dir, self.workers, store, pools)) as work:
            yield work

    def owned(self, name: str) -> FileLock:
        """A job's lock. Raises `filelock.Timeout` at once where another process holds it."""
        (self.out / "large").mkdir(parents=True, exist_ok=True)
        return FileLock(self.out / "large" / f"{name}.lock", blocking=False)

    @contextmanager
    def leg(self, record: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
        """An entry of the list `part` of a record for what is done inside.

        It has the conditions and, once it has ended, the seconds. The note of a record says where
        it was stopped.
        """
        command = f"python -m benchmarks.campaign {self._flags}--only {record['name']}"
        entry: dict[str, Any] = {
            "seconds": None,
            "conditions": results.conditions() | {"command": command},
        }
        record.setdefault(part, []).append(entry)
        began = time.monotonic()
        try:
            yield entry
        except (Interrupted, KeyboardInterrupt) as stopped:
            record["note"] = f"{part}: {str(stopped).split(';')[0] or 'begun'}"
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            self.keep(record, record["note"])

    def keep_set(self, condensed: CondensedSet, name: str, *, real: bool = False) -> Path:
        """Save a job's set as uint8; returns where, from `out`.

        It goes into `large` if the file is large, or if its images are `real` ones: these follow
        from the seed, and are not ours to hand on.
        """
        large = self.out / "large" / f"{name}.safetensors"
        large.parent.mkdir(exist_ok=True)
        condensed.save(large, storage="uint8")
        if real or large.stat().st_size > KEPT_BYTES:
            return large.relative_to(self.out)
        return large.rename(self.out / large.name).relative_to(self.out)
