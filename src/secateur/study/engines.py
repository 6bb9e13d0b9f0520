"""Where tasks are carried out: in this process, in several on this machine, or wherever a registered engine has some.

An engine is told tasks that can be done now, in any order, and says which are done or have failed. A worker that is
killed costs its attempt and nothing else: the task goes to another one and continues from its checkpoint.
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

from secateur.core.errors import ModelError, SecateurError
from secateur.core.registry import Registry
from secateur.study.plan import Task
from secateur.study.work import Done, Place, carry_out

TASK_ATTEMPTS = 3
"""How often a task is tried whose worker dies."""

Result: TypeAlias = Done | SecateurError


class Engine(Protocol):
    """Carries out tasks."""

    @property
    def free(self) -> int:
        """How many more tasks it would start at once."""

    def submit(self, task: Task) -> None:
        """Begin a task."""

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Wait until at least one task is done or has failed, and yield those."""

    def close(self) -> None:
        """Give up what is unfinished."""


ENGINES: Registry[Callable[[Place, int | None], Engine]] = Registry("engine")
"""Name → what makes an engine from a place and the number of workers (None: as many as there are processors)."""


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@ENGINES.register("local")
def local(place: Place, workers: int | None) -> Engine:
    """Work on this machine; one worker is this very process."""
    count = processors() if workers is None else workers
    return Here(place) if count == 1 else Pool(place, count)


class Here:
    """This process, one task after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waiting: list[Task] = []

    @property
    def free(self) -> int:
        """One at a time."""
        return 1 - len(self.waiting)

    def submit(self, task: Task) -> None:
        """Put it off until somebody waits for it."""
        self.waiting.append(task)

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Do it."""
        task = self.waiting.pop()
        yield task, attempted(task, self.place)

    def close(self) -> None:
        """There is nothing to give up."""


class Pool:
    """Processes on this machine, which end with this one however that ends."""

    def __init__(self, place: Place, workers: int) -> None:
        self.place, self.workers = place, workers
        self.running: dict[Future[Result], Task] = {}
        self.attempts: dict[str, int] = {}
        self.others = set(multiprocessing.active_children())
        self.pool = self._pool()

    @property
    def free(self) -> int:
        """As many as workers are idle."""
        return self.workers - len(self.running)

    def submit(self, task: Task) -> None:
        """Send it to a worker."""
        self.attempts[task.key] = self.attempts.get(task.key, 0) + 1
        try:
            with _held_back(signal.SIGINT):  # a worker begins here, and has it so all its life
                future = self.pool.submit(attempted, task, self.place)
        except BrokenProcessPool as error:  # a worker has just died: `finished` begins anew
            future = Future()
            future.set_exception(error)
        self.running[future] = task

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Wait for a worker; where one died, begin anew what was under way."""
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
    except Exception as error:  # one cell's trouble, whatever it is, is not the others'
        return ModelError(f"{type(error).__name__}: {error}")


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Have a signal wait until the block ends; for processes begun in it, for good. Where the system can't, nothing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["SECATEUR_QUIET"] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
