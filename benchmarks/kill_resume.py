"""Five SIGKILLs at random moments of a training: are the weights and the log the same bytes in the end?

LeNet-5 on MNIST by the command `secateur train`, or a small convnet on scikit-learn's digits where no --data-root is
given. One run is left alone; the other is killed at random moments and the same command given again until it is
done. Training uses one thread, so that equal bytes can be asked for.

    python benchmarks/kill_resume.py [--data-root DIR] [--kills 5] [--epochs 4] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from harness import parser, record
from secateur.core.tables import COUNT, Column, Table
from secateur.runs.run import Run


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "secateur", "train", *words, "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return output.strip()


def killed(process: subprocess.Popen[str], checkpoint: Path, delay: float) -> bool:
    """Kill `process` so many seconds after there is a checkpoint; False where it was done before."""
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--kills", type=int, default=5, help="how often to kill")
    made.add_argument("--epochs", type=int, default=None, help="4 of MNIST, 60 of the digits")
    made.add_argument("--seed", type=int, default=0, help="seed of the moments")
    return made.parse_args()


def main() -> None:
    given = options()
    torch.set_num_threads(1)  # as the trainings, so that the record says so
    if given.data_root:
        model, data, epochs = "lenet5", "mnist", given.epochs or 4
        words = ["--data-root", str(Path(given.data_root).absolute())]
    else:
        model, data, epochs, words = "convnet", "digits", given.epochs or 60, []
    words += (
        f"--model {model} --data {data} --epochs {epochs} --batch-size 256 --checkpoint-every 25it".split()
    )
    stream = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        alone, disturbed = Path(name) / "alone", Path(name) / "disturbed"
        for folder in (alone, disturbed):
            folder.mkdir()
        finish(start(alone, words))
        seconds = Run.open(alone / "run").history[-1]["seconds"]
        delays: list[float] = []
        while len(delays) < given.kills:
            delay = stream.uniform(0, 1.5 * seconds / given.kills)
            if not killed(start(disturbed, words), disturbed / "run/checkpoint.safetensors", delay):
                break
            delays.append(round(delay, 3))
        print(finish(start(disturbed, words)))
        same = {
            file: (alone / "run" / file).read_bytes() == (disturbed / "run" / file).read_bytes()
            for file in ("model.safetensors", "metrics.jsonl")
        }
        results = [Run.open(folder / "run").history[-1]["result"] for folder in (alone, disturbed)]
    result = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "kills": len(delays),
        "weights": "identical" if same["model.safetensors"] else "differ",
        "log": "identical" if same["metrics.jsonl"] else "differ",
        "result": "identical" if results[0] == results[1] else "differ",
        "seconds": seconds,
        "delays": delays,
        "top1": results[0]["top1"],
    }
    columns = [
        Column("model", "Model"),
        Column("data", "Data"),
        Column("epochs", "Epochs", COUNT),
        Column("kills", "SIGKILLs", COUNT),
        Column("weights", "Weights"),
        Column("log", "Log"),
        Column("result", "Result"),
    ]
    record(
        "kill_resume",
        result,
        table=Table(columns, [result]),
        command="python benchmarks/kill_resume.py" + (" --data-root DIR" if given.data_root else ""),
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
