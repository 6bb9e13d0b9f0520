"""A study of 120 cells on digits: killed three times and resumed, it ends with the table of an undisturbed run.

Also what the machinery costs: seconds of the whole run that are not spent in the steps themselves, for each cell, with
one worker. With --ray a third run is done on a local Ray cluster of two nodes, of which one is killed in the middle.

    python benchmarks/study_kill.py [--threads 1] [--ray]
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import parser, record
from secateur.core.tables import Column, Format, Table
from secateur.study import ENGINES, Place, Standing, conduct, engines, read_study
from secateur.study.pivot import pivot
from secateur.study.summary import flat

NAME = "study_kill"
STUDY = """
secateur: 1
study:
  seed: [0, 1, 2]
  criterion: [magnitude, obd, snip, taylor, random]
  amount: [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995]
steps:
- {do: train, model: lenet300, data: digits, epochs: 3, seed: "{seed}", out: dense}
- {do: prune, run: dense, criterion: "{criterion}", amount: "{amount}", seed: "{seed}", out: cut}
- {do: retrain, run: cut, epochs: 2}
"""
KILLS = 3


def main() -> None:
    options = parser(__doc__, data=False)
    options.add_argument("--ray", action="store_true")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    path = folder / "digits.yaml"
    path.write_text(STUDY)
    rows: list[dict[str, Any]] = []
    try:
        spent = Spent()
        whole = told(path, folder / "whole", spent)
        cells = len(read_study(path).cells)
        rows.append(
            {"run": "undisturbed", "cells": cells, "kills": 0, "overhead": 1000 * spent.other / cells}
        )
        killed = killed_at_random(path, folder / "killed")
        again = told(path, folder / "killed", Spent())
        rows.append({"run": "killed and resumed", "cells": cells, "kills": killed, "same": again == whole})
        if given.ray:
            rows.append(
                {
                    "run": "on Ray, a node killed",
                    "cells": cells,
                    "kills": 1,
                    "same": on_ray(path, folder / "ray") == whole,
                }
            )
    finally:
        shutil.rmtree(folder)
    columns = [
        Column("run", "Run"),
        Column("cells", "Cells", Format(str)),
        Column("kills", "Kills", Format(str)),
        Column("same", "Same table", Format(lambda same: "yes" if same else "no")),
        Column("overhead", "ms a cell beside its steps", Format(lambda value: f"{value:.1f}")),
    ]
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, rows),
        command="python benchmarks/study_kill.py" + (" --ray" if given.ray else ""),
        data="digits",
    )


class Spent:
    """Seconds in the steps, and beside them."""

    def __init__(self) -> None:
        self.steps = self.whole = 0.0

    @property
    def other(self) -> float:
        return self.whole - self.steps


def told(path: Path, root: Path, spent: Spent) -> str:
    """Run a study in this process and return its table."""
    plain = engines.carry_out  # type: ignore[attr-defined]

    def timed(task: Any, place: Place) -> Any:
        start = time.perf_counter()
        try:
            return plain(task, place)
        finally:
            spent.steps += time.perf_counter() - start

    engines.carry_out = timed  # type: ignore[attr-defined]
    try:
        place, start = Place(root, threads=1), time.perf_counter()
        standing = conduct(read_study(path), place, ENGINES["local"](place, 1))
        spent.whole = time.perf_counter() - start
    finally:
        engines.carry_out = plain  # type: ignore[attr-defined]
    return table_of(standing)


def table_of(standing: Standing) -> str:
    assert not standing.failed, standing.failed
    found = pivot(flat(standing), list(standing.study.variables), baseline="random")
    return found.json()


def killed_at_random(path: Path, root: Path) -> int:
    """Start the command and kill it with everything it started, at three moments."""
    draw, killed, tasks = random.Random(0), 0, len(read_study(path).tasks)
    command = [
        sys.executable,
        "-m",
        "secateur",
        "study",
        "run",
        str(path),
        "--root",
        str(root),
        "--workers",
        "2",
    ]
    for part in range(KILLS):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        aim = (part + draw.uniform(0.3, 0.9)) / (KILLS + 1)
        while running.poll() is None and done(root, tasks) < aim:
            time.sleep(0.02)
        killed += running.poll() is None
        running.kill()
        running.wait()
    return killed


def done(root: Path, tasks: int) -> float:
    """Return the part of all tasks that have results."""
    try:
        base = sqlite3.connect(f"file:{root / 'study.sqlite'}?mode=ro", uri=True)
        return float(base.execute("select count(*) from tasks").fetchone()[0]) / tasks
    except sqlite3.Error:
        return 0.0


def on_ray(path: Path, root: Path) -> str:
    """Run it on a cluster of two nodes and take one away when a third is done."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    gone: list[Any] = []

    def show(standing: Standing) -> None:
        if not gone and len(standing.done) > len(standing.study.tasks) / 3:
            gone.append(cluster.remove_node(second, allow_graceful=False))

    place = Place(root, threads=1)
    try:
        return table_of(conduct(read_study(path), place, ENGINES["ray"](place, None), show))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
