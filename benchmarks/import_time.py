"""Seconds until `import secateur` is done, and until the command answers, beside what they build on.

Every row is a fresh process, from its start to its end; the rows take turns, so that whatever else the machine does
meets all of them alike. Medians count. Two bounds are looked at: importing the package, and then the core as well
(prune, analyze, measure, save, load), takes at most a quarter of `import torch` beyond it; `secateur --help` takes at
most 1.5 times what an import of typer and rich takes, and 0.3 s. Files are read once before the clock runs.

    python benchmarks/import_time.py [--repeats 15]
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median, quantiles
from typing import Any

from harness import parser, record
from secateur.core.tables import Column, Format, Table

CORE = "secateur.prune, secateur.analyze, secateur.measure, secateur.save, secateur.load"
TORCH, PACKAGE, WITH_CORE = "import torch", "import torch, secateur", "import torch, secateur; prune, save, …"
LIBRARIES, HELP, VERSION, TYPO = (
    "import typer, rich",
    "secateur --help",
    "secateur --version",
    "secateur prnue",
)
COMMAND = "import secateur_command; secateur_command.main()"
PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    TORCH: ["-c", "import torch"],
    PACKAGE: ["-c", "import torch, secateur"],
    WITH_CORE: ["-c", f"import torch, secateur; {CORE}"],
    LIBRARIES: ["-c", "import typer, rich"],
    HELP: ["-c", COMMAND, "--help"],
    VERSION: ["-c", COMMAND, "--version"],
    TYPO: ["-c", COMMAND, "prnue"],
    "secateur prune --help": ["-c", COMMAND, "prune", "--help"],
}
IMPORT_SHARE, HELP_FACTOR, HELP_SECONDS = 0.25, 1.5, 0.3
SECONDS = Format(lambda value: f"{value:.3f}")


def main() -> None:
    given = parser(__doc__, data=False)
    given.add_argument("--repeats", type=int, default=15, help="processes per row")
    repeats = given.parse_args().repeats
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for turn in range(repeats + 1):
        for name in list(PROGRAMS)[:: 1 if turn % 2 else -1]:
            seconds = process(PROGRAMS[name])
            if turn:
                taken[name].append(seconds)
        print(f"{turn} of {repeats}", flush=True)
    rows = [{"program": f"`{name}`", **spread(values)} for name, values in taken.items()]
    bounds = judged({name: median(values) for name, values in taken.items()})
    for bound in bounds:
        print(
            "{what}: {is:.3f} of at most {most:.3f}, {0}".format(
                "holds" if bound["holds"] else "BROKEN", **bound
            )
        )
    columns = [
        Column("program", "Fresh process"),
        Column("seconds", "Seconds, median", SECONDS),
        Column("low", "First quartile", SECONDS),
        Column("high", "Third quartile", SECONDS),
    ]
    record(
        "import_time",
        {"rows": rows, "bounds": bounds, "seconds": taken},
        table=Table(columns, rows),
        command=f"python benchmarks/import_time.py --repeats {repeats}",
        data="none",
    )


def process(words: list[str]) -> float:
    """Return the seconds a process with these words takes."""
    start = time.perf_counter()
    ran = subprocess.run([sys.executable, *words], capture_output=True)
    seconds = time.perf_counter() - start
    assert ran.returncode in (0, 2), ran.stderr  # 2: the mistyped command
    return seconds


def spread(values: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(values, n=4)
    return {"seconds": median(values), "low": low, "high": high}


def judged(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Compare the medians with the bounds."""
    torch, libraries = seconds[TORCH], seconds[LIBRARIES]
    shares = {name: (seconds[name] - torch) / torch for name in (PACKAGE, WITH_CORE)}
    most = HELP_FACTOR * libraries + HELP_SECONDS
    bounds = [(f"{name}, beyond torch", share, IMPORT_SHARE) for name, share in shares.items()]
    bounds += [(name, seconds[name], most) for name in (HELP, VERSION, TYPO)]
    return [{"what": what, "is": value, "most": most, "holds": value <= most} for what, value, most in bounds]


if __name__ == "__main__":
    main()
