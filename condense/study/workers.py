"""Where the trainings of a search run: in this process, in worker processes of this machine, or on a Ray cluster.

All three are one function, `trainings(bench, tasks, engine)`: it yields the finished trials in whatever order they finish,
and one that is lost with its worker is done again. Nothing is written here: what is yielded goes to the one store.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from condense.device import pick_device
from condense.errors import UserError
from condense.study.trials import Trial
from nas.training import Bench, Task

_ATTEMPTS = 3
"""How often a training is begun whose workers keep dying."""
_ON_A_GPU = 8
"""Trainings that share a GPU: small networks leave most of it idle."""
_AHEAD = 2
"""Trainings handed to a Ray cluster for each it can run at once: it never idles, and never holds all of a long search."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What the trainings run on."""

    device: str = "auto"
    """`cpu` or `cuda`; `auto` takes a GPU where there is one."""
    workers: int | None = None
    """Processes; 0 for none but this one, None for one a core, or eight on a GPU."""
    threads: int | None = None
    """Threads of each on a CPU; None shares out the cores, on a cluster one."""
    cluster: str | None = None
    """A Ray cluster instead: `ray://HOST:PORT`, `auto` for the one this machine belongs to, `local` to start one here."""

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
        """Local worker processes."""
        if self.workers is not None:
            return self.workers
        return _ON_A_GPU if self.place().type == "cuda" else _cores()

    def threads_each(self) -> int:
        """Threads of each worker."""
        if self.threads or self.cluster:
            return self.threads or 1
        return max(1, _cores() // max(1, self.processes()))


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trainings(bench: Bench, tasks: Sequence[Task], engine: Engine) -> Generator[Trial, None, None]:
    """The trials of `tasks`, each as soon as it is finished.

    Closing the iterator stops what is still running. Raises `UserError` where a training's workers die again and
    again, and where Ray is not installed or not reachable.
    """
    if engine.cluster is not None:
        return _on_ray(bench, tasks, engine)
    if engine.processes() == 0:
        return _here(bench, tasks, engine)
    return _in_processes(bench, tasks, engine)


def _here(bench: Bench, tasks: Sequence[Task], engine: Engine) -> Generator[Trial, None, None]:
    bench = bench.to(engine.place())
    yield from map(bench.run, tasks)


# ---- worker processes of this machine


class _Worker:
    """A process, the pipe to it, and what it is at."""

    def __init__(self, engine: Engine) -> None:
        # Spawned: a forked process inherits locks of torch's threads, and no CUDA.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, engine.place().type, engine.threads_each()), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its death is the end of the pipe
        self.task: Task | None = None

    def begin(self, bench: bytes) -> None:
        """Send what the trainings share. A worker already dead is noticed when its result is asked for."""
        with suppress(OSError):
            self.pipe.send_bytes(bench)

    def give(self, task: Task) -> None:
        """Start a training."""
        self.task = task
        with suppress(OSError):
            self.pipe.send(task)

    def stop(self) -> None:
        """End it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _in_processes(
    bench: Bench, tasks: Sequence[Task], engine: Engine
) -> Generator[Trial, None, None]:
    shared, waiting, attempts = pickle.dumps(bench), deque(tasks), Counter[Task]()
    workers = [
        _Worker(engine) for _ in range(min(engine.processes(), len(waiting)))
    ]  # all start at once
    try:
        for worker in workers:
            worker.begin(shared)
            worker.give(waiting.popleft())
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                task = worker.task
                assert task is not None  # a worker without a task is stopped at once
                try:
                    result = worker.pipe.recv()
                except (EOFError, OSError):
                    attempts[task] += 1
                    if attempts[task] == _ATTEMPTS:
                        raise _lost(bench, task) from None
                    waiting.appendleft(task)
                    worker = _replace(workers, worker, engine, shared)
                    result = None
                if isinstance(result, BaseException):
                    raise result
                if waiting:
                    worker.give(waiting.popleft())
                else:
                    workers.remove(worker)
                    worker.stop()
                if result is not None:
                    yield result
    finally:
        for worker in workers:
            worker.stop()


def _replace(workers: list[_Worker], dead: _Worker, engine: Engine, shared: bytes) -> _Worker:
    dead.stop()
    fresh = workers[workers.index(dead)] = _Worker(engine)
    fresh.begin(shared)
    return fresh


def _work(pipe: Connection, device: str, threads: int) -> None:
    """What a worker process does: trainings, one after the other, until it is stopped or its parent is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    bench: Bench = pickle.loads(pipe.recv_bytes()).to(pick_device(device))
    while True:
        try:
            pipe.send(bench.run(pipe.recv()))
        except EOFError:
            return
        except Exception as error:
            pipe.send(error)


def _end_with_parent() -> None:
    """A killed parent stops nobody: without this its workers would train on to the end of their candidates."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _lost(bench: Bench, task: Task) -> UserError:
    name = bench.keys.of(task).architecture
    return UserError(
        f"the workers that trained `{name}` on `{task.proxy}` died {_ATTEMPTS} times, as when memory runs out: "
        "what is finished is kept; resume with fewer --workers"
    )


# ---- a Ray cluster


def _on_ray(bench: Bench, tasks: Sequence[Task], engine: Engine) -> Generator[Trial, None, None]:
    ray = _connect(str(engine.cluster))
    wants_gpu = engine.device == "cuda" or (
        engine.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
    )
    device, threads = "cuda" if wants_gpu else "cpu", engine.threads_each()
    share = {"num_cpus": threads, "num_gpus": 1 / _ON_A_GPU if wants_gpu else 0}
    remote = ray.remote(max_retries=_ATTEMPTS - 1, **share)(_on_a_node)
    waiting = deque(tasks)
    running: dict[Any, Task] = {}
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
                # In a list, the reference stays one: a worker fetches what it stands for once, not for every task.
                running[remote.remote([shared], device, threads, task)] = task
            for done in ray.wait(list(running))[0]:
                task = running.pop(done)
                try:
                    trial = ray.get(done)
                except ray.exceptions.WorkerCrashedError:
                    raise _lost(bench, task) from None
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
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR
        )  # "local" starts one here
    except (ConnectionError, ImportError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--cluster {address} cannot be reached: {reason}; start one with `ray start --head`"
        ) from None
    return ray


_benches: dict[Any, Bench] = {}
"""In a Ray worker: the bench of its search, fetched once."""


def _on_a_node(shared: list[Any], device: str, threads: int, task: Task) -> Trial:
    import ray

    torch.set_num_threads(threads)
    (reference,) = shared
    if reference not in _benches:
        _benches.clear()
        _benches[reference] = ray.get(reference).to(pick_device(device))
    return _benches[reference].run(task)
