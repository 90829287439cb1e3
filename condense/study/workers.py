"""Where the tasks of a study run: in this process, in worker processes, or on a Ray cluster.

One function does all three: `trials(bench, tasks, workers)`. It yields the trials in the order in
which they finish. If a worker dies, its task is done again. Nothing is written to disk here: the
study stores what is yielded.
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
from condense.errors import UserError, reason
from condense.study.trials import Key, Trial
from condense.threads import PASSIVE, cores, passive_unless_set
from condense.writing import folders_in_use, use_too

T = TypeVar("T", bound=Hashable)
Task = TypeVar("Task", bound=Hashable, contravariant=True)

_ATTEMPTS = 3
"""How often a task is begun if its workers keep dying."""
_ON_A_GPU = 8
"""Tasks that share a GPU. One alone would leave most of the GPU idle, as the networks are small."""
_MOST = 4096  # worker processes, and threads of one
_AHEAD = 2
"""Tasks handed to a Ray cluster for each that it can run at once, so that it is never idle."""


class Bench(Protocol[Task]):
    """What the tasks of a study share, and how one of them is done.

    A bench is pickled and sent to each worker once. A task is any hashable value that can be
    pickled. What `run` returns depends only on the bench and the task.

    >>> @dataclass
    ... class Powers:
    ...     exponent: int
    ...     def to(self, device): return self
    ...     def key(self, number): return Key.of("power", number=number, exponent=self.exponent)
    ...     def run(self, number): return {"power": number**self.exponent}
    ...     def name(self, number): return f"{number} to the power {self.exponent}"
    >>> bench: Bench[int] = Powers(exponent=3)
    >>> bench.run(2)
    {'power': 8}
    """

    def to(self, device: torch.device) -> Self:
        """The same bench, with everything that tasks read on `device`."""
        ...

    def key(self, task: Task) -> Key:
        """The key of the task's trial in a store."""
        ...

    def run(self, task: Task) -> dict[str, Any]:
        """Do a task; returns its result, which must fit into JSON."""
        ...

    def name(self, task: Task) -> str:
        """A few words that name the task in messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the tasks of a study run on. Raises `UserError` for a number out of range.

    >>> Workers(workers=2, threads=1).threads_each()
    1
    """

    device: str = "auto"
    """`auto`, `cpu` or `cuda`; `auto` takes a GPU if there is one."""
    workers: int | None = None
    """The number of worker processes; with 0, the tasks run in this process.

    Where a command has no other default: one for each core, or eight on a GPU."""
    threads: int | None = None
    """Threads of each process on a CPU.

    Default: an equal share of the cores, but at most OMP_NUM_THREADS; on a cluster one; without
    worker processes as many as this process has."""
    cluster: str | None = None
    """The Ray cluster to use in place of processes of this machine.

    `ray://HOST:PORT`, `auto` (the cluster that this machine belongs to), or `local` (one that is
    started here)."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("threads", 1)):
            if (value := getattr(self, name)) is not None and not least <= value <= _MOST:
                raise UserError(f"--{name} {value}: it must be from {least} to {_MOST}")

    def check(self) -> None:
        """Raise a `UserError` if the device or the cluster is not available."""
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

    Closing the iterator stops the tasks that are still running. Raises `UserError` if the workers
    of a task die three times, or if Ray is not installed or cannot be reached. What a task raises
    is raised here too.

    >>> class Squares:
    ...     def to(self, device): return self
    ...     def key(self, number): return Key.of("square", number=number)
    ...     def run(self, number): return {"square": number**2}
    ...     def name(self, number): return str(number)
    >>> [trial.result for trial in trials(Squares(), [1, 2], Workers(workers=0))]
    [{'square': 1}, {'square': 4}]
    """
    if workers.cluster is not None:
        return _on_ray(bench, tasks, workers)
    if workers.processes() == 0:
        return _here(bench, tasks, workers)
    return _in_processes(bench, tasks, workers)


def carry_out(bench: Bench[T], task: T) -> Trial:
    """Do one task in this process, and time it.

    >>> class Squares:
    ...     def key(self, number): return Key.of("square", number=number)
    ...     def run(self, number): return {"square": number**2}
    >>> carry_out(Squares(), 3).result
    {'square': 9}
    """
    began, enabled = time.perf_counter(), torch.is_grad_enabled()
    try:
        result = bench.run(task)
    finally:
        # An interrupt may come while gradients are switched off.
        torch.set_grad_enabled(enabled)
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
    """A worker process, the pipe to it, and the task that it is doing."""

    def __init__(self, workers: Workers) -> None:
        from loky.backend.process import LokyProcess

        # Loky starts a fresh interpreter with an environment that we choose. OpenMP reads the
        # environment when its library is loaded, and in a spawned process a script may load it
        # before any code of ours runs. A forked process would inherit locks that torch's threads
        # hold, and could not use CUDA.
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
            ours.close()  # now the pipe ends when the worker dies
        self.task: Any = None

    def begin(self, shared: bytes) -> None:
        """Send what all tasks share, pickled. That a worker is dead already is noticed later."""
        with suppress(OSError):
            self.pipe.send_bytes(shared)

    def give(self, task: Any) -> None:
        """Send a task, which the worker starts at once."""
        self.task = task
        with suppress(OSError):
            self.pipe.send(task)

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        with suppress(ProcessLookupError):  # already dead
            os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        for end in (self.pipe, self._lifeline):
            end.close()


def _environment(threads: int) -> dict[str, str]:
    """The variables of a worker's environment: its number of threads, which sleep while waiting."""
    return {"OMP_NUM_THREADS": str(threads), **passive_unless_set()}


def _in_processes(
    bench: Bench[T], tasks: Sequence[T], workers: Workers
) -> Generator[Trial, None, None]:
    shared, waiting = pickle.dumps((folders_in_use(), bench)), deque(tasks)
    attempts = Counter[T]()
    pool = [_Worker(workers) for _ in range(min(workers.processes(), len(waiting)))]
    try:
        for worker in pool:
            worker.begin(shared)
            worker.give(waiting.popleft())
        while pool:
            ready = wait([worker.pipe for worker in pool])
            for worker in [worker for worker in pool if worker.pipe in ready]:
                result = _result(worker)
                if result is None:  # it died: another worker takes its place and its task
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
    """The trial that a worker sent, or None if it is dead. An error that it sent is raised."""
    try:
        result = worker.pipe.recv()
    except (EOFError, OSError):
        return None
    if isinstance(result, BaseException):
        raise result
    return result


def _replace(pool: list[_Worker], dead: _Worker, workers: Workers, shared: bytes) -> _Worker:
    """Put a new worker in the place of a dead one."""
    dead.stop()
    fresh = pool[pool.index(dead)] = _Worker(workers)
    fresh.begin(shared)
    return fresh


def _work(pipe: Connection, lifeline: Connection, device: str, threads: int) -> None:
    """The main function of a worker: it does one task after another until it or its parent ends."""
    # Ctrl-C reaches the whole process group, but the parent decides when a worker stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)
    folders, bench = pickle.loads(pipe.recv_bytes())
    use_too(folders)
    bench = bench.to(pick_device(device))
    while True:
        try:
            pipe.send(carry_out(bench, pipe.recv()))
        except EOFError:
            return
        except Exception as error:
            pipe.send(error)


def _end_with_parent(lifeline: Connection) -> None:
    """End this worker when its parent ends.

    A parent that is killed cannot stop its workers, and they would go on to the end of their tasks.
    """
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()  # nothing is ever sent: this returns when the parent's end is closed
    os._exit(1)


def _lost(name: str) -> UserError:
    return UserError(
        f"the workers at {name} died {_ATTEMPTS} times, perhaps because memory ran out: "
        "what is finished is kept; continue with fewer --workers"
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
            resources = ray.cluster_resources()  # read each time, since machines come and go
            slots = (
                resources.get("GPU", 0) * _ON_A_GPU
                if wants_gpu
                else resources.get("CPU", 1) / threads
            )
            while waiting and len(running) < _AHEAD * max(1, slots):
                task = waiting.popleft()
                # Ray would resolve a bare reference for every task. In a list it stays a reference,
                # and a worker fetches the bench once.
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
        # The address `local` starts a cluster on this machine.
        ray.init(address, runtime_env={"env_vars": PASSIVE}, **options)
    except (ConnectionError, ImportError, ValueError, RuntimeError) as error:
        why = f"{reason(error)}; start one with `ray start --head`"
        raise UserError(f"--cluster {address} cannot be reached: {why}") from None
    # Else Ray says on stdout, where results belong, that a worker died; `log_to_driver` or not.
    ray._private.worker._worker_logs_enabled = False
    return ray


_benches: dict[Any, Bench] = {}
"""In a Ray worker: the bench of its study, by its reference; it is fetched once."""


def _on_a_node(shared: list[Any], device: str, threads: int, task: Any) -> Trial:
    """Do one task on a machine of the cluster."""
    import ray

    torch.set_num_threads(threads)
    (reference,) = shared
    if reference not in _benches:
        _benches.clear()
        _benches[reference] = ray.get(reference).to(pick_device(device))
    return carry_out(_benches[reference], task)
