"""The engine for several machines: tasks of a Ray cluster, whose machines must share the study's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from secateur.core.errors import ModelError
from secateur.core.extras import need
from secateur.study.engines import ENGINES, TASK_ATTEMPTS, Result, attempted
from secateur.study.plan import Task
from secateur.study.work import Place


@ENGINES.register("ray")
class OnRay:
    """Workers of a Ray cluster: a running one (RAY_ADDRESS), or a new one of this machine's processors.

    `workers` is the most tasks at a time; None: the cluster's number of processors. Raises `MissingExtraError` without
    Ray.
    """

    def __init__(self, place: Place, workers: int | None) -> None:
        self.ray: Any = need("ray", extra="ray", for_="A study on many machines")
        self.started = not self.ray.is_initialized()
        if self.started:
            address = os.environ.get("RAY_ADDRESS") or None
            self.ray.init(
                address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
            )
        self.place, self.workers = place, workers
        self.running: dict[Any, Task] = {}
        options = {"num_cpus": place.threads or 1, "max_retries": TASK_ATTEMPTS - 1}
        self.remote: Any = self.ray.remote(**options)(attempted)

    @property
    def free(self) -> int:
        """`workers`, or the cluster's current number of processors, less the running tasks."""
        most = self.workers or max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        return most - len(self.running)

    def submit(self, task: Task) -> None:
        """Submit the task to the cluster, which retries it if its worker or machine dies."""
        self.running[self.remote.remote(task, self.place)] = task

    def finished(self) -> Iterator[tuple[Task, Result]]:
        """Wait for the next task to end, and yield it with its result."""
        done, _ = self.ray.wait(list(self.running), num_returns=1)
        for reference in done:
            task = self.running.pop(reference)
            try:
                yield task, self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0]
                yield task, ModelError(f"Ray gave it up after {TASK_ATTEMPTS} attempts ({reason}).")

    def close(self) -> None:
        """Cancel running tasks, and disconnect from the cluster if it was joined here."""
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        if self.started:
            self.ray.shutdown()
