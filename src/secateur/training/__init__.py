"""Training and evaluation: the loop, its settings, its log and its checkpoints."""

from secateur.core.extras import need

need("pydantic", for_="Training")

from secateur.training.config import TrainConfig
from secateur.training.duration import Duration
from secateur.training.evaluation import evaluate
from secateur.training.launch import train
from secateur.training.loop import Fit
from secateur.training.snapshots import read_snapshot

__all__ = ["Duration", "Fit", "TrainConfig", "evaluate", "read_snapshot", "train"]
