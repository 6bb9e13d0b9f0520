"""Lottery tickets: iterations of cutting a trained network, rewinding its weights and training it again.

A *level* is one such iteration. `cut`, `subnetwork`, `pace` and `plan` determine its amount and masks, a `start` its
initial weights, masks and schedule, and `find` runs the whole search in memory; the step `secateur.steps.Lottery` runs
it in run folders. `ask` evaluates masks of a finished training without another one (Zhou et al. 2019).
"""

from secateur.lottery.cutting import cut, multiples
from secateur.lottery.early import early_stop
from secateur.lottery.levels import pace
from secateur.lottery.mask_criteria import KEPT, MASK_CRITERIA, MASKED
from secateur.lottery.order import PlannedTraining, order
from secateur.lottery.plan import plan
from secateur.lottery.retraining import TRAININGS, Course
from secateur.lottery.search import Level, find
from secateur.lottery.starts import STARTS, Start, start
from secateur.lottery.subnetwork import Subnetwork, subnetwork
from secateur.lottery.supermask import ask

__all__ = [
    "KEPT",
    "MASKED",
    "MASK_CRITERIA",
    "STARTS",
    "TRAININGS",
    "Course",
    "Level",
    "PlannedTraining",
    "Start",
    "Subnetwork",
    "ask",
    "cut",
    "early_stop",
    "find",
    "multiples",
    "order",
    "pace",
    "plan",
    "start",
    "subnetwork",
]
