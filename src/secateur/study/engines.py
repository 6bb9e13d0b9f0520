"""Engines that carry out tasks: in this process, in several on this machine, or registered ones elsewhere.

An engine receives ready tasks, in any order, and yields those that are done or have failed. The task of a killed
worker is tried again by another one and continues from its checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from secateur.core.environment import usable_cores
from secateur.core.errors import ModelError, SecateurError
from secateur.core.registry import Registry
from secateur.study.plan import Task
from secateur.study.work import Done, Place, carry_out

TASK_ATTEMPTS = 3
"""Number of attempts of a task whose worker is killed."""

Result: TypeAlias = Done | SecateurError


class Engine(Protocol):
    """Carries out tasks."""

    @property
    def free(self) -> int:
        """Number of further tasks it can start now."""

    def submit(self, task: Task) -> None:
        """Start a task."""

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Wait until a task is done or has failed, and yield all such tasks with their results."""

    def close(self) -> None:
        """Abandon unfinished tasks and release the workers."""


ENGINES: Registry[Callable[[Place, int | None], Engine]] = Registry("engine")
"""Name → function of a place and a number of workers to an engine (None: one per processor)."""


@ENGINES.register("local")
def local(place: Place, workers: int | None) -> Engine:
    """Workers on this machine; one worker is this process itself."""
    count = usable_cores() if workers is None else workers
    return Here(place) if count == 1 else Pool(place, count)


class Here:
    """This process, one task after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waiting: list[Task] = []

    @property
    def free(self) -> int:
        """1, or 0 while a task is waiting."""
        return 1 - len(self.waiting)

    def submit(self, task: Task) -> None:
        """Store the task for `finished`."""
        self.waiting.append(task)

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Carry the stored task out, and yield it with its result."""
        task = self.waiting.pop()
        yield task, attempted(task, self.place)

    def close(self) -> None:
        """Do nothing: there are no workers."""


class Pool:
    """Worker processes on this machine, which end with this process, even if it is killed."""

    def __init__(self, place: Place, workers: int) -> None:
        self.place, self.workers = place, workers
        self.running: dict[Future[Result], Task] = {}
        self.attempts: dict[str, int] = {}
        self.others = set(multiprocessing.active_children())
        self.pool = self._pool()

    @property
    def free(self) -> int:
        """Number of idle workers."""
        return self.workers - len(self.running)

    def submit(self, task: Task) -> None:
        """Send the task to a worker."""
        self.attempts[task.key] = self.attempts.get(task.key, 0) + 1
        try:
            with _blocked(signal.SIGINT):  # inherited by a worker that starts here
                future = self.pool.submit(attempted, task, self.place)
        except BrokenProcessPool as error:  # a worker has just died: `finished` restarts the pool
            future = Future()
            future.set_exception(error)
        self.running[future] = task

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Wait for a result; after a worker's death, restart the pool and resubmit its tasks."""
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        results = [(self.running.pop(future), future) for future in done]
        if any(isinstance(future.exception(), BrokenProcessPool) for _, future in results):
            lost = [task for task, future in results if future.exception()] + list(self.running.values())
            self.running.clear()
            self.close()
            self.pool = self._pool()
            for task in lost:
                if self.attempts[task.key] < TASK_ATTEMPTS:
                    self.submit(task)
                else:
                    yield (
                        task,
                        ModelError(f"Its process was killed {TASK_ATTEMPTS} times: is there enough memory?"),
                    )
        yield from ((task, future.result()) for task, future in results if future.exception() is None)

    def close(self) -> None:
        """Stop all workers at once."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - self.others:
            worker.kill()
            worker.join()

    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, mp_context=context, initializer=_follow_parent)


def attempted(task: Task, place: Place) -> Result:
    """Carry out a task, and return its error as a value."""
    try:
        return carry_out(task, place)
    except SecateurError as error:
        return error
    except MemoryError:
        return ModelError("The memory is used up: choose a smaller batch size, model or data subset.")
    except Exception as error:  # no failure of one cell stops the others
        return ModelError(f"{type(error).__name__}: {error}")


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal within the block, and for good in processes started there; no effect without pthreads."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Ignore Ctrl-C in a worker, and end it with its parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["SECATEUR_QUIET"] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
