"""Lottery tickets: cut a trained network, go back to where its training began, train what is left, and again.

A *level* is one such round. How much goes and where is in `cutting`, `subnetwork`, `pace` and `plan`, what becomes of
weights, masks and schedule before the next training is a `start`, and `find` is the whole search on a model of one's
own. The step `secateur.steps.Lottery` does it with run folders. `ask` puts a question to a training by a mask, without
another one.
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
