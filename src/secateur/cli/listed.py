"""The list of commands: what `secateur --help` prints, without a look at the commands themselves."""

from __future__ import annotations

from collections.abc import Mapping

LISTED_COMMANDS: Mapping[str, str] = {
    "train": "Train a model and keep it as a run folder.",
    "retrain": "Train a run's model on, its masks held.",
    "import": "Take a model's weights in as a run folder.",
    "inspect": "Show a run's layers one by one.",
    "safe-rate": "Find the safe pruning rate of a run.",
    "prune": "Cut a run's model into a new run.",
    "ticket": "Cut more of a run's model and restart the rest: one level of a lottery.",
    "lottery": "Look for lottery tickets: cut, rewind and train again, level by level, with baselines beside it.",
    "supermask": "Mask a network as it was before its training, and measure it without any training.",
    "eval": "Measure a run's accuracy on a split.",
    "compare": "Compare runs in one table.",
    "compare-fusion": "Compare dropping, fusing and reconstructing channels, one group at a time.",
    "fusion-results": "Show all that compare-fusion found in a folder as one table.",
    "connect": "Measure error and loss on the line between two models.",
    "instability": "Measure from which moment of a training on its outcome is stable to the noise of SGD.",
    "proxies": "Guess how good networks will be before they are trained.",
    "report": "Write a report of runs as one HTML file.",
    "export": "Write a run's model as ONNX or as a PyTorch program.",
    "models": "List the models --model knows.",
    "datasets": "List the data sets --data knows.",
    "criteria": "List the criteria --criterion knows.",
    "compensations": "List the compensations --compensation of prune knows.",
    "methods": "List the methods --method of train and retrain knows.",
    "run": "Take every step of a recipe.",
    "demo": "Run the demo on handwritten digits.",
    "study": "A grid of recipes: run it, see where it stands, read what came of it.",
}
"""Name → the first line of its help, in the order of the list; the steps come first, in that of `STEPS`."""
