"""A study: tasks that workers carry out, and a store that keeps each trial as it finishes.

    with Trials(folder / "trials.sqlite") as store:
        study = Study(store, tasks, bench.key)
        with progress("evaluate", study.total, study.done) as report:
            study.work(
                bench,
                workers,
                lambda done, trial: report(done),
                how_to_go_on="the same command continues",
                minutes=20,
            )
        results = study.results()

A time limit or an interrupt loses no finished trial. When a study is started again with the same
tasks, it does those that are left, whatever stopped it before.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

from condense.settings import require
from condense.study.interrupt import Interrupted, stoppable
from condense.study.trials import Key, Trial
from condense.study.workers import Bench, Workers, trials

T = TypeVar("T", bound=Hashable)


MOST_TASKS = 10_000_000
"""The most tasks that a study may have: their list must fit into memory."""


class Store(Protocol):
    """What a study needs of the place where trials are kept, such as `Trials`.

    >>> from condense.study.trials import Trials
    >>> store: Store = Trials(":memory:")
    >>> store.keys("square")
    set()
    """

    def add(self, trial: Trial) -> bool:
        """Keep a trial. When this returns, it survives a power cut."""
        ...

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind, by their keys."""
        ...

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind."""
        ...


def as_workers(given: Workers | int, device: str = "auto") -> Workers:
    """The workers that are meant: a number stands for that many processes for `device`.

    Raises `UserError` for anything else.

    >>> as_workers(2).workers
    2
    >>> as_workers("two")
    Traceback (most recent call last):
    condense.errors.UserError: `workers` is 'two': it must be a number of processes, or `Workers(...
    """
    if isinstance(given, int):
        return Workers(workers=given, device=device)
    accepted = "a number of processes, or `Workers(...)` of condense.study.workers"
    require("workers", given, isinstance(given, Workers), accepted)
    return given


class Study(Generic[T]):
    """The tasks of a study, together with the store of the trials that are finished.

    Parameters
    ----------
    store: holds the finished trials, and receives the new ones.
    tasks: in the order in which they are begun.
    key: gives the key of a task's trial in the store.

    >>> from condense.study.trials import Trials
    >>> store = Trials(":memory:")
    >>> study = Study(store, [1, 2, 3], lambda number: Key.of("square", number=number))
    >>> (study.total, study.done, study.left)
    (3, 0, [1, 2, 3])
    >>> store.add(Trial(study.key(2), {"square": 4}, 0.1, "this machine"))
    True
    >>> (study.done, study.left, study.results())
    (1, [1, 3], {2: {'square': 4}})
    """

    def __init__(self, store: Store, tasks: Sequence[T], key: Callable[[T], Key]) -> None:
        self.store, self.tasks, self.key = store, tasks, key

    @property
    def total(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    @property
    def left(self) -> list[T]:
        """The tasks that are not finished."""
        known = set[Key]().union(*map(self.store.keys, self._kinds))
        return [task for task in self.tasks if self.key(task) not in known]

    @property
    def done(self) -> int:
        """The number of finished tasks."""
        return self.total - len(self.left)

    def work(
        self,
        bench: Bench[T],
        workers: Workers,
        report: Callable[[int, Trial], None],
        *,
        how_to_go_on: str,
        minutes: float | None = None,
    ) -> None:
        """Do the tasks that are left, and store each trial as soon as it is finished.

        Parameters
        ----------
        bench: what all tasks share; it carries them out.
        report: called after each trial, with the number of finished tasks and the trial.
        how_to_go_on: the end of the message of `Interrupted`; it says how to continue.
        minutes: a time limit, above 0. At its end the work stops without an error, and the tasks
            that are running are dropped.

        Raises `Interrupted` after Ctrl-C or SIGTERM, `UserError` for a time limit that is not above
        0, and what a task raises.

        >>> from dataclasses import dataclass
        >>> from condense.study.trials import Trials
        >>> @dataclass
        ... class Squares:
        ...     def to(self, device): return self
        ...     def key(self, number): return Key.of("square", number=number)
        ...     def run(self, number): return {"square": number**2}
        ...     def name(self, number): return str(number)
        >>> study = Study(Trials(":memory:"), [1, 2], Squares().key)
        >>> here, report = Workers(workers=0), lambda done, trial: print(done, trial.result)
        >>> study.work(Squares(), here, report, how_to_go_on="start it again")
        1 {'square': 1}
        2 {'square': 4}
        """
        left, began = self.left, time.monotonic()
        done = self.total - len(left)
        finished = trials(bench, left, workers)
        try:  # around the time limit, which may end at any moment
            with stoppable(minutes) as time_is_up, closing(finished):
                for trial in finished:
                    self.store.add(trial)
                    done += 1
                    report(done, trial)
                    if time_is_up():
                        break
        except (KeyboardInterrupt, Interrupted):
            if minutes is None or time.monotonic() - began < 60 * minutes:
                stopped = f"stopped after {done} of {self.total}; {how_to_go_on}"
                raise Interrupted(stopped) from None

    def results(self) -> dict[T, dict[str, Any]]:
        """The results of the finished tasks, in the order of the tasks."""
        return {task: trial.result for task, trial in self._finished.items()}

    @property
    def seconds(self) -> float:
        """How long the finished tasks took, one after the other."""
        return sum(trial.seconds for trial in self._finished.values())

    @property
    def _finished(self) -> dict[T, Trial]:
        stored = {
            key: trial for kind in self._kinds for key, trial in self.store.find(kind).items()
        }
        trials_of_tasks = ((task, stored.get(self.key(task))) for task in self.tasks)
        return {task: trial for task, trial in trials_of_tasks if trial is not None}

    @property
    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(self.key(task).kind for task in self.tasks))
