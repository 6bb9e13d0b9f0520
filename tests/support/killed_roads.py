"""Takes steps many times, each time killed at another write to the disk, and prints what was left different.

python killed_roads.py FOLDER: prints for each step how many moments there are, and a line for each that left other
bytes, or other files, than the step taken in one go. A process of its own, because it forks itself: a kill that only
pretends leaves nothing half-written.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.runs.run import Run
from secateur.steps import Lottery, Prune, Retrain, Step, Train

SMALL: dict[str, Any] = {"train_subset": 40, "batch_size": 20}
ROAD: tuple[Step, ...] = (
    Train(model="lenet300", data="digits", out="dense", epochs=2, snapshots=("1it",), **SMALL),
    Prune(run="dense", out="cut", amount=0.6),
    Retrain(run="cut", epochs=1, **SMALL),
    Lottery(runs=("dense",), out="lot", levels=1, rate=0.4, rewind_to="1it"),
)


class Moments:
    """Counts the files a process opens to write, renames, removes or makes, and kills it at the one numbered `at`."""

    def __init__(self) -> None:
        self.passed, self.at = 0, 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, told: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(told[1], str) and not told[1].startswith("r")
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.chmod"):
            self.passed += 1
            if self.passed == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own; return how that ended."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def kept(root: Path) -> dict[str, Any]:
    """Return all that must not depend on kills: which files there are, and what is in them."""
    files = {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    runs = [Run.open(path.parent) for path in sorted(root.rglob("run.json"))]
    told = {
        run.name: [(each["config"], each["result"], each["weights"]) for each in run.history] for run in runs
    }
    return {**{str(path): told.get(path.parent.name, content) if path.name == "run.json" else content
               for path, content in files.items()}}  # fmt: skip


def check(step: Step, before: Path, moments: Moments) -> int:
    """Take `step` in `before`, and in copies of it, killed at one moment after the other; return how many there are."""
    base = before.parent
    shutil.copytree(before, base / "now")
    step(before)
    expected, at = kept(before), 0
    while True:
        at += 1
        root = Path(shutil.copytree(base / "now", base / "killed"))

        def killed(at: int = at, root: Path = root) -> None:
            moments.passed, moments.at = 0, at
            step(root)

        if forked(killed) != signal.SIGKILL:
            break
        ended = forked(lambda root=root: step(root))  # type: ignore[misc]
        found = kept(root)
        differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        if ended or differing:
            print(f"{step.do} killed at {at} ends with {ended} and other {sorted(differing)}", flush=True)
        shutil.rmtree(root)
    shutil.rmtree(root)
    shutil.rmtree(base / "now")
    return at - 1


def main() -> None:
    root, moments = Path(sys.argv[1]) / "root", Moments()
    root.mkdir()
    for step in ROAD:
        print(step.do, check(step, root, moments), flush=True)


if __name__ == "__main__":
    main()
