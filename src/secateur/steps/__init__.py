"""The steps of the road, each in one file: train → prune → retrain → measure → compare → report."""

from secateur.steps import adopt, evaluation, prune, train
from secateur.steps.base import STEPS, Context, Outcome, Step, step

__all__ = ["STEPS", "Context", "Outcome", "Step", "adopt", "evaluation", "prune", "step", "train"]
