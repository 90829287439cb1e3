"""Where the tasks of a study run: in this process, in worker processes of this machine, or on a Ray cluster.

All three are one function, `trials(bench, tasks, workers)`. It yields finished trials in whatever order they finish, and
a task that is lost with its worker is done again. Nothing is written here: what is yielded goes to the study's store.
"""

import logging
import os
import pickle
import platform
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, Self, TypeVar

import torch

from condense.device import pick_device
from condense.errors import UserError
from condense.study.trials import Key, Trial
from condense.threads import PASSIVE, cores, passive_unless_set

T = TypeVar("T", bound=Hashable)
Task = TypeVar("Task", bound=Hashable, contravariant=True)

_ATTEMPTS = 3
"""How often a task is begun whose workers keep dying."""
_ON_A_GPU = 8
"""Tasks that share a GPU: small networks leave most of it idle."""
_AHEAD = 2
"""Tasks handed to a Ray cluster for each that it can run at once: it never idles, and never holds a whole long study."""


class Bench(Protocol[Task]):
    """All that the tasks of a study share. It is pickled and travels to each worker once.

    A task is any hashable value that can be pickled. What `run` returns depends on the bench and the task alone.
    """

    def to(self, device: torch.device) -> Self:
        """The same with everything that tasks read on `device`."""
        ...

    def key(self, task: Task) -> Key:
        """What the trial of a task is called in a store."""
        ...

    def run(self, task: Task) -> dict[str, Any]:
        """Do a task; returns its result as plain JSON."""
        ...

    def name(self, task: Task) -> str:
        """A task in a few words, for messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the tasks of a study run on.

    >>> Workers(workers=2, threads=1).threads_each()
    1
    """

    device: str = "auto"
    """auto, cpu or cuda; auto takes a GPU where there is one."""
    workers: int | None = None
    """Processes; 0 for this process alone. Where there is no other default, one a core, or eight
    on a GPU."""
    threads: int | None = None
    """Threads of each process on a CPU. Unless given, the cores shared out, at most OMP_NUM_THREADS;
    one on a cluster; unchanged where this process works alone."""
    cluster: str | None = None
    """Use Ray instead: ray://HOST:PORT, auto (the cluster this machine belongs to) or local (one started here)."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value}: it must be {least} or more")

    def check(self) -> None:
        """Raise a `UserError` if there is no such device or cluster."""
        if self.cluster is None:
            self.place()
        else:
            _connect(self.cluster)

    def place(self) -> torch.device:
        """The device of local workers."""
        return pick_device(self.device)

    def processes(self) -> int:
        """The number of local worker processes."""
        if self.workers is not None:
            return self.workers
        return _ON_A_GPU if self.place().type == "cuda" else cores()

    def threads_each(self) -> int:
        """The number of threads of each worker."""
        if self.threads or self.cluster:
            return self.threads or 1
        share = max(1, cores() // max(1, self.processes()))
        allowed = os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


def trials(bench: Bench[T], tasks: Sequence[T], workers: Workers) -> Generator[Trial, None, None]:
    """The trials of `tasks`, each as soon as it is finished.

    Closing the iterator stops what is still running. Raises `UserError` where the workers of one task die again and
    again, and where Ray is not installed or cannot be reached; whatever a task raises is raised here.
    """
    if workers.cluster is not None:
        return _on_ray(bench, tasks, workers)
    if workers.processes() == 0:
        return _here(bench, tasks, workers)
    return _in_processes(bench, tasks, workers)


def carry_out(bench: Bench[T], task: T) -> Trial:
    """Do one task here."""
    began, enabled = time.perf_counter(), torch.is_grad_enabled()
    try:
        result = bench.run(task)
    finally:
        torch.set_grad_enabled(enabled)  # Ctrl-C may have come in the middle of switching it
    return Trial(bench.key(task), result, time.perf_counter() - began, platform.node())


def _here(bench: Bench[T], tasks: Sequence[T], workers: Workers) -> Generator[Trial, None, None]:
    bench, before = bench.to(workers.place()), torch.get_num_threads()
    torch.set_num_threads(workers.threads or before)
    try:
        for task in tasks:
            yield carry_out(bench, task)
    finally:
        torch.set_num_threads(before)


# ---- worker processes of this machine


class _Worker:
    """A process, the pipe to it, and the task it is at."""

    def __init__(self, workers: Workers) -> None:
        from loky.backend.process import LokyProcess

        # A fresh interpreter with an environment of its own: OpenMP reads it when its library loads, which in a script's
        # spawned process would be before any code of ours. A forked one inherits locks of torch's threads, and no CUDA.
        self.pipe, theirs = Pipe()
        lifeline, self._lifeline = Pipe(duplex=False)
        threads = workers.threads_each()
        self.process = LokyProcess(
            target=_work,
            args=(theirs, lifeline, workers.place().type, threads),
            daemon=True,
            env=_environment(threads),
        )
        self.process.start()
        for ours in (theirs, lifeline):
            ours.close()  # so that its death is the end of the pipe
        self.task: Any = None

    def begin(self, bench: bytes) -> None:
        """Send what the tasks share. A worker already dead is noticed when its result is asked for."""
        with suppress(OSError):
            self.pipe.send_bytes(bench)

    def give(self, task: Any) -> None:
        """Start a task."""
        self.task = task
        with suppress(OSError):
            self.pipe.send(task)

    def stop(self) -> None:
        """End the process, whatever it is at."""
        with suppress(ProcessLookupError):  # dead already
            os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        for end in (self.pipe, self._lifeline):
            end.close()


def _environment(threads: int) -> dict[str, str]:
    """What a worker's OpenMP library is told: few threads, which do not spin while they wait."""
    return {"OMP_NUM_THREADS": str(threads), **passive_unless_set()}


def _in_processes(
    bench: Bench[T], tasks: Sequence[T], workers: Workers
) -> Generator[Trial, None, None]:
    shared, waiting, attempts = pickle.dumps(bench), deque(tasks), Counter[T]()
    pool = [_Worker(workers) for _ in range(min(workers.processes(), len(waiting)))]
    try:
        for worker in pool:
            worker.begin(shared)
            worker.give(waiting.popleft())
        while pool:
            ready = wait([worker.pipe for worker in pool])
            for worker in [worker for worker in pool if worker.pipe in ready]:
                result = _result(worker)
                if result is None:  # it died: another one takes its place and its task
                    attempts[worker.task] += 1
                    if attempts[worker.task] == _ATTEMPTS:
                        raise _lost(bench.name(worker.task))
                    waiting.appendleft(worker.task)
                    worker = _replace(pool, worker, workers, shared)
                if waiting:
                    worker.give(waiting.popleft())
                else:
                    pool.remove(worker)
                    worker.stop()
                if result is not None:
                    yield result
    finally:
        for worker in pool:
            worker.stop()


def _result(worker: _Worker) -> Trial | None:
    """What a worker sent: a trial, or an error that is raised here; None where it is dead."""
    try:
        result = worker.pipe.recv()
    except (EOFError, OSError):
        return None
    if isinstance(result, BaseException):
        raise result
    return result


def _replace(pool: list[_Worker], dead: _Worker, workers: Workers, shared: bytes) -> _Worker:
    dead.stop()
    fresh = pool[pool.index(dead)] = _Worker(workers)
    fresh.begin(shared)
    return fresh


def _work(pipe: Connection, lifeline: Connection, device: str, threads: int) -> None:
    """What a worker process does: tasks, one after the other, until it is stopped or its parent is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)
    bench: Bench = pickle.loads(pipe.recv_bytes()).to(pick_device(device))
    while True:
        try:
            pipe.send(carry_out(bench, pipe.recv()))
        except EOFError:
            return
        except Exception as error:
            pipe.send(error)


def _end_with_parent(lifeline: Connection) -> None:
    """A killed parent stops nobody: without this its workers would work on to the end of their task."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()  # nothing is ever sent: it returns when the parent's end is closed
    os._exit(1)


def _lost(name: str) -> UserError:
    return UserError(
        f"the workers at {name} died {_ATTEMPTS} times, as when memory runs out: what is finished is kept; "
        "go on with fewer --workers"
    )


# ---- a Ray cluster


def _on_ray(bench: Bench[T], tasks: Sequence[T], workers: Workers) -> Generator[Trial, None, None]:
    ray = _connect(str(workers.cluster))
    wants_gpu = workers.device == "cuda" or (
        workers.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
    )
    device, threads = "cuda" if wants_gpu else "cpu", workers.threads_each()
    share = {"num_cpus": threads, "num_gpus": 1 / _ON_A_GPU if wants_gpu else 0}
    remote = ray.remote(max_retries=_ATTEMPTS - 1, **share)(_on_a_node)
    waiting, running = deque(tasks), dict[Any, T]()
    try:
        shared = ray.put(bench)
        while waiting or running:
            resources = ray.cluster_resources()  # asked again: machines come and go
            slots = (
                resources.get("GPU", 0) * _ON_A_GPU
                if wants_gpu
                else resources.get("CPU", 1) / threads
            )
            while waiting and len(running) < _AHEAD * max(1, slots):
                task = waiting.popleft()
                # In a list the reference stays one: a worker fetches what it stands for once, not for every task.
                running[remote.remote([shared], device, threads, task)] = task
            for done in ray.wait(list(running))[0]:
                task = running.pop(done)
                try:
                    trial = ray.get(done)
                except ray.exceptions.WorkerCrashedError:
                    raise _lost(bench.name(task)) from None
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                yield trial
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _connect(address: str) -> Any:
    """Ray, connected for the rest of this process."""
    if address not in ("auto", "local") and not address.startswith("ray://"):
        raise UserError(f"--cluster {address}: it must be ray://HOST:PORT, auto or local")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            f"--cluster {address} needs Ray: pip install condensekit[cluster]"
        ) from None
    if ray.is_initialized():
        return ray
    try:
        options = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address, runtime_env={"env_vars": PASSIVE}, **options)  # "local" starts one here
    except (ConnectionError, ImportError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--cluster {address} cannot be reached: {reason}; start one with `ray start --head`"
        ) from None
    return ray


_benches: dict[Any, Bench] = {}
"""In a Ray worker: the bench of its study, fetched once."""


def _on_a_node(shared: list[Any], device: str, threads: int, task: Any) -> Trial:
    import ray

    torch.set_num_threads(threads)
    (reference,) = shared
    if reference not in _benches:
        _benches.clear()
        _benches[reference] = ray.get(reference).to(pick_device(device))
    return carry_out(_benches[reference], task)
