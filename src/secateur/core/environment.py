"""The environment of a measurement: versions, processor, device, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path


def environment(device: str = "cpu") -> dict[str, str | int]:
    """Return versions, processor, cores, threads, device and date of this process, for a record."""
    import torch

    return {
        "secateur": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def usable_cores() -> int:
    """Return the number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str:
    """Return an installed package's version, or "unknown"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


VERSION = version("secateur")


def command_line() -> str:
    """Return the command line of this process, quoted for a shell; empty if secateur was not its command."""
    if Path(sys.argv[0]).name not in ("secateur", "__main__.py"):
        return ""
    return shlex.join(["secateur", *sys.argv[1:]])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
