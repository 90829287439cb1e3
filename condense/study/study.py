"""A study: a list of tasks, a store of finished trials, workers, a time limit, and an interrupt that loses nothing.

    with Trials(folder / "trials.sqlite") as store:
        study = Study(store, tasks, bench.key)
        with progress("evaluate", study.total, study.done) as told:
            study.work(bench, workers, told, how_to_go_on="the same command goes on", minutes=20)
        results = study.results()

Started again with the same tasks it does what is left, whatever ended it before.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

from condense.study.interrupt import Interrupted, stoppable
from condense.study.trials import Key, Trial
from condense.study.workers import Bench, Workers, trials

T = TypeVar("T", bound=Hashable)


class Store(Protocol):
    """Where trials are kept; `condense.study.trials.Trials` is one."""

    def add(self, trial: Trial) -> bool:
        """Keep a trial, durably on return."""
        ...

    def find(self, kind: str) -> dict[Key, Trial]:
        """The trials of a kind."""
        ...

    def keys(self, kind: str) -> set[Key]:
        """The keys of the trials of a kind."""
        ...


class Study(Generic[T]):
    """The tasks of a study beside the store of those that are finished.

    store: where trials are, and come.
    tasks: in the order in which they are begun.
    key: what the trial of a task is called in the store.

    >>> from condense.study.trials import Trials
    >>> store = Trials(":memory:")
    >>> study = Study(store, [1, 2, 3], lambda number: Key.of("square", number=number))
    >>> (study.total, study.done, study.left)
    (3, 0, [1, 2, 3])
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
        told: Callable[[int, Trial], None],
        *,
        how_to_go_on: str,
        minutes: float | None = None,
    ) -> None:
        """Do what is left, and store each trial as soon as it is finished.

        told: called after each trial with the number of finished tasks.
        how_to_go_on: what the message of `Interrupted` says after Ctrl-C or SIGTERM.
        minutes: stop after that long, without an error; the task under way is dropped.
        """
        left, began = self.left, time.monotonic()
        done = self.total - len(left)
        finished = trials(bench, left, workers)
        try:  # around the time limit, which may end at any moment
            with stoppable(minutes) as time_is_up, closing(finished):
                for trial in finished:
                    self.store.add(trial)
                    done += 1
                    told(done, trial)
                    if time_is_up():
                        break
        except (KeyboardInterrupt, Interrupted):
            if minutes is None or time.monotonic() - began < 60 * minutes:
                stopped = f"stopped after {done} of {self.total}; {how_to_go_on}"
                raise Interrupted(stopped) from None

    def results(self) -> dict[T, dict[str, Any]]:
        """The results of the finished tasks, in the order of the tasks."""
        stored = {
            key: trial for kind in self._kinds for key, trial in self.store.find(kind).items()
        }
        found = ((task, stored.get(self.key(task))) for task in self.tasks)
        return {task: trial.result for task, trial in found if trial is not None}

    @property
    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(self.key(task).kind for task in self.tasks))
